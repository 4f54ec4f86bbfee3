"""Trace files in, batches of records out."""
