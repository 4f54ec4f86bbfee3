"""The cost of the fences at a guest's mask, restore and unmask sites: executions times prices."""
