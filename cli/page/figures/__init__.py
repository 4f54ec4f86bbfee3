"""The figures of a page: one question per file, from the JSON to a drawing and its tables."""
