"""A partial as what tables need of it, and what a table is."""
