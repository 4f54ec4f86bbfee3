"""The folder NAME.xtrace that a recording leaves."""
