"""What top and stat stand on: counters of the running host, period by period."""
