"""Timing the price of a fence on this host."""
