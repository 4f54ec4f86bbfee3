"""Map addresses of a running guest to functions and source lines of its image."""
