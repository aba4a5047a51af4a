"""The tailer: fills the live layers of a machine's stores from the tables of their streams, commit by commit."""
