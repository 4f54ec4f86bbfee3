"""Load summaries: stored ones, or made from traces that child processes read."""
