"""Load summaries: stored ones, or made from traces."""
