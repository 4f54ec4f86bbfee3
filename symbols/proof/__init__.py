"""The proof of a verdict: a model checker for x86-TSO, and the programs that it checks."""
