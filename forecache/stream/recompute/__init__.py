"""A stream's table computed again from its own rows, and compared bit by bit."""
