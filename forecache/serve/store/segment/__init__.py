"""Segments: immutable LMDB files of keys and entries, how they are written and mapped."""
