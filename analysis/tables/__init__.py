"""The report's tables, one subject per module."""
