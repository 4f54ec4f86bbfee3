"""Traces and their results in the formats of other tools; each format has a file of its own."""
