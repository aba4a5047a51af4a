"""From the bytes of a request to its columns."""
