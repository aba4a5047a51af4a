"""Declared windows: tiles of a day each, and the nights that are merged from them."""
