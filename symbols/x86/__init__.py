"""Decode and encode instructions: the only modules that use iced-x86."""
