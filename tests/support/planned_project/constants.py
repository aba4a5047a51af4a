"""Numbers that other modules use."""


def leaves() -> int:
    return 7


def cheapest() -> float:
    return 0.5
