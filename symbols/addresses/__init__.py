"""Addresses of a running guest as functions and source lines of its image."""
