"""Tests of xtrace.symbols; a package, so that the root's symbols/ never stands for it."""
