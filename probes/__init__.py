"""What touches the host and the wire: xentrace files as batches of records."""
