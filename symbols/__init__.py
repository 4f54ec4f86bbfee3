"""What the binaries say.

To come: the site finder, which reads a guest kernel's ELF and DWARF and lists its mask, restore,
unmask and clear-pending sites with the fences they carry.  There is no code yet.
"""
