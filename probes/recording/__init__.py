"""Record a live host into a capture, on dom0's system Python with only the standard library."""
