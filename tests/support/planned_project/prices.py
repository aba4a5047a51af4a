"""Prices."""

from planned_project.constants import cheapest


def price_of(amount: float) -> float:
    return max(amount, cheapest())
