"""Programs that count and time in dom0's kernel, and what loads and drains them; needs bcc alone."""
