"""The terminal: text in columns, styles, grids, pictures of a line, the pager, progress."""
