"""The checks of `forecache doctor`: each is a function that returns one finding."""
