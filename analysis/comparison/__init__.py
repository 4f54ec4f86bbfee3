"""Comparing two groups of captures."""
