"""One pass over a trace: the state machines of vCPUs and pCPUs, and the tallies of what they measure."""
