"""A kernel image as a file: its sections, symbols and notes, and what Xen and Linux are told by them."""
