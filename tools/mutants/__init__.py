"""Mutation testing of the most important modules with cosmic-ray's operators; results: docs/mutants.md."""
