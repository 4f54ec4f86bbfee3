"""Records as lines of text."""
