"""Rounding."""


def rounded(value: float) -> float:
    return round(value, 3)
