"""Values as a dashboard writes them, in the units that the panels name."""

import math


def in_unit(value: float, unit: str) -> str:
    """A value as a dashboard writes it in one of the units that the panels name."""
    if not math.isfinite(value):
        return "–"
    size, name = size_of(abs(value), unit)
    return (f"{value / size:.4g}" if unit == "percentunit" else written(value / size)) + name


def written(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def size_of(most: float, unit: str) -> tuple[float, str]:
    """In what values up to `most` are counted, and its name."""
    *smaller, largest = _SIZES.get(unit, ((math.inf, 1.0, ""),))
    _, size, name = next((each for each in smaller if most < each[0]), largest)
    return size, name


_SIZES = {
    "percentunit": ((math.inf, 0.01, " %"),),
    "s": (
        (1e-3, 1e-6, " µs"), (1.0, 1e-3, " ms"), (120.0, 1.0, " s"), (7200.0, 60.0, " min"),
        (172800.0, 3600.0, " h"), (math.inf, 86400.0, " days"),
    ),
    "bytes": (
        (2.0**10, 1.0, " B"), (2.0**20, 2.0**10, " KiB"), (2.0**30, 2.0**20, " MiB"), (math.inf, 2.0**30, " GiB"),
    ),
    "reqps": ((math.inf, 1.0, " req/s"),),
    "rowsps": ((math.inf, 1.0, " rows/s"),),
}  # fmt: skip
"""By unit: values below the first number are counted in the second, which has this name."""
