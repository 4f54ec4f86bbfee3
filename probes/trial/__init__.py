"""A running program whose code a trial exchanges, and what puts the code back whatever happens."""
