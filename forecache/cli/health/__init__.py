"""The checks of `forecache doctor`."""
