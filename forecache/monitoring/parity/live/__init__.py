"""Look-ups of live views, computed again: the night that they stood on, merged with the rows of the stream's table."""
