"""A randomised controlled trial of a running program's fences: its design, its statistics, its result."""
