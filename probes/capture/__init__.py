"""The folder NAME.xtrace that a recording leaves: which files lie in it, how it is written and read."""
