"""Imported only inside a function."""


def ratio(value: float, days: int) -> float:
    return value / scale(days)


def scale(days: int) -> float:
    # A comment.
    return days + 1.0


def neighbour(value: float) -> float:
    return value
