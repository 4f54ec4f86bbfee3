"""A report on a terminal: its first screen, and the whole of it."""
