"""What the fences at a guest's mask and restore sites cost: executions times prices, as intervals."""
