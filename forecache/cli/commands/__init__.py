"""The commands of `forecache`."""
