"""The folder NAME.xtrace that a recording leaves: which files it contains, how they are written and read."""
