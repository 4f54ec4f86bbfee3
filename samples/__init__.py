"""Small real traces; README.md says how each was made and what it shows."""
