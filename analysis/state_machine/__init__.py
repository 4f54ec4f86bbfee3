"""One pass over a trace: the state machines of vCPUs and pCPUs, and what they count."""
