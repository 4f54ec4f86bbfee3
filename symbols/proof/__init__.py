"""The proof beside a verdict: a model checker of x86-TSO, and what it is run on."""
