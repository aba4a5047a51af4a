"""Computes the rows of a stream's table again and compares them bit by bit."""
