"""Comparison of two states of a partition by hashes of their rows, in bounded memory."""
