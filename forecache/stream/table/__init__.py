"""The tables of a stream: rows and offsets in one commit, and the quarantine of bad messages."""
