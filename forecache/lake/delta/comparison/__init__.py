"""Which rows differ between two states of a partition, found by the hashes of their rows in bounded memory."""
