"""Read DWARF within a budget: source locations, struct members, types of variables and parameters."""
