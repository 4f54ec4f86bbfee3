"""The hot loops: decorators that run them compiled, and the library that the package's build compiled."""
