"""The rows of the features benchmark's tables."""

from typing import Any

from _common.rows import Row, Value

SECTIONS = {
    "month": "31 nights of 18 windows at once, from nothing: seconds, CPU seconds, memory",
    "next": "One night more, those before it built: seconds, CPU seconds, memory",
    "large": "30 nights at once from nothing and one night more, at a size that the peers are not measured at",
    "historical": "A table of keys and times given 18 features of 31 nights, as they were known then; equal values",
}
_FIGURES = (("seconds", "s", 1.0), ("cpu_s", "CPU s", 1.0), ("peak_bytes", "GB", 1e-9))


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    if name == "historical":
        about = (
            f"{section['rows']:,} rows, of which {section['answered']:,} have features and Feast leaves out "
            f"{section['left_out_by_feast']:,} that have none, from {section['feature_rows']:,} rows of features"
        )
        ours, theirs = Value.of(section["seconds"]), Value.of(section["feast_seconds"])
        return [Row(about, ours, "s", "Feast, get_historical_features", theirs, theirs / ours, key="historical")]
    about, ways = f"{section['events']:,} events", section["ways"]
    ours = ways["day tiles"]
    if name == "large":
        return [
            _alone(f"{about}, 30 nights from nothing", ours["before_s"], "s"),
            _alone(f"{about}, one night more", ours["seconds"], "s"),
            _alone(f"{about}, CPU of all", ours["all_cpu_s"], "CPU s"),
            _alone(f"{about}, largest memory of all processes", ours["peak_bytes"] / 1e9, "GB"),
        ]
    return [
        _beside(f"{about}, {unit}", ours[figure] * scale, unit, peer, found[figure] * scale)
        for peer, found in ways.items()
        if found is not ours
        for figure, unit, scale in _FIGURES
    ]


def _alone(what: str, ours: float, unit: str) -> Row:
    return Row(what, Value.of([ours]), unit)


def _beside(what: str, ours: float, unit: str, peer: str, theirs: float) -> Row:
    return Row(what, Value.of([ours]), unit, peer, Value.of([theirs]), theirs / ours)
