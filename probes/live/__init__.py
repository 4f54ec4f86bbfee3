"""What top and stat stand on: a trace that comes in, live or replayed, counted period by period."""
