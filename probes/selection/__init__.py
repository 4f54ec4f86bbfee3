"""What a user selects of a trace, as text on a command line: times, domains, vCPUs, pCPUs, events."""
