"""The sections of `recommend.py`."""
