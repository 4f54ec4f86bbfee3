"""Traces and stored summaries in, summaries out: each read in a child process of its own."""
