"""The table of a stream: rows and offsets in one commit, and bad messages beside them."""
