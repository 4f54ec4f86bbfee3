"""Tests of xtrace.analysis; a package, so that the root's analysis/ never stands for it."""
