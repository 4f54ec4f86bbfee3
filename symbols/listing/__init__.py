"""Compare site tables, and write them out."""
