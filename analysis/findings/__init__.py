"""Findings: what in a report is out of the usual, each by a rule with a threshold."""
