"""A kernel image as a file: its sections, symbols and notes, and what they say to Xen and Linux."""
