"""The exported module."""
