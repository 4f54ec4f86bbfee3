"""Copies of traces and captures without names, with addresses shifted, for people to send."""
