"""Messages of a topic as typed rows, and which of them are bad."""
