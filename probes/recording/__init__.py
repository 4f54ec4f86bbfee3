"""Recording a live host into a capture; runs on a dom0's system Python, so with the standard library alone."""
