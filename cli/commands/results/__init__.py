"""What several commands show of one kind of result."""
