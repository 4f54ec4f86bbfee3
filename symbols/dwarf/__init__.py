"""What DWARF says, read within a budget: places of addresses, members of structs, types of variables."""
