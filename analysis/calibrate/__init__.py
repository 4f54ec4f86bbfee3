"""The price of a fence, timed on this host."""
