"""What is whole in a damaged recording: its windows, its compression, whether it is a trace at all."""
