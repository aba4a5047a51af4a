"""Base class of the networks."""


class Base:
    activation = "relu"
