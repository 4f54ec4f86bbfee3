"""What a function computes, and the paths through it."""
