"""The report: every table of every section, and its exports."""
