"""Decode and encode instructions: the only modules that know iced-x86."""
