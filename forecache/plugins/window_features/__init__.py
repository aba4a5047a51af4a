"""Declared windows: daily tiles of aggregate states, and the features of as-of dates merged from them."""
