"""Mutation testing of the rules that matter, by cosmic-ray's operators: docs/mutants.md has what came out."""
