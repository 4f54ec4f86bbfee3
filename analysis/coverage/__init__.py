"""What a trace covers, and what each figure needs of it."""
