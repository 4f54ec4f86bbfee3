"""Time machine code natively: run it in a child process, read the TSC, compute confidence intervals."""
