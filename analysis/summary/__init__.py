"""The mergeable result of a trace, and the files that store it."""
