"""A project with models that are asked in real time."""

from datetime import date

FIRST, LAST = date(2026, 1, 1), date(2026, 2, 28)
