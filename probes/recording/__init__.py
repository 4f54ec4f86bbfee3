"""Recording a live host into a capture, on a dom0's system Python: the standard library alone."""
