"""What tables are made of: measures and samples from a Partial, and the description of a table."""
