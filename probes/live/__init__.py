"""The basis of top and stat: a trace, live or replayed, counted period by period as it arrives."""
