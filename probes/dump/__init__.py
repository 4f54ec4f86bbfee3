"""Records as lines of text or JSON."""
