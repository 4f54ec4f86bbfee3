"""Rules on the recording itself."""
