"""Tables of sites compared with each other, and written out."""
