"""Time machine code natively: what runs it, the clock it is timed by, the intervals that come of it."""
