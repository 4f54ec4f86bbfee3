"""Rules on events: sends, interrupts, masks, fences."""
