"""Results in, text for a terminal out."""
