"""What a function computes, and the ways through it."""
