"""Formats of landing files: each is parsed to rows of text, in bounded memory, for any bytes."""
