"""The questions: records in, data frames out."""
