"""Programs that count and time in dom0's kernel; what loads and drains them, by bcc and the standard library."""
