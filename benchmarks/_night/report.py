"""The rows of the night's tables."""

from typing import Any

from _common.rows import Asked, Row, Value

SECTIONS = {
    "next_day": "One day more of a small project, 23,570 customers, twelve windows and LightGBM: `forecache run`",
    "night": "One day more over ten days of history, published and verified, beside scripts by hand",
}
PEERS = {"spark": "PySpark by hand", "duckdb": "DuckDB and LightGBM by hand"}
_MOST = {"spark": 1.2, "duckdb": 2.0}
_MOST_GB = 6.0


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    return _rows_of_days(section["days"]) if name == "next_day" else _rows_of_runs(section["runs"])


def _rows_of_days(days: list[dict[str, Any]]) -> list[Row]:
    """Of a day, from the start of the process to its end."""
    figures = (("seconds", "s", 1.0, None), ("cpu_s", "CPU s", 1.0, 5.0), ("peak_bytes", "MB", 1e-6, 400.0))
    rows = [day["new_rows"] for day in days]
    return [
        Row(
            f"a day of {min(rows)} to {max(rows)} new rows, {unit}",
            Value.of([day[figure] * scale for day in days]),
            unit,
            asked=None if most is None else Asked(most, at_least=False, of_ratio=False, unit=unit),
        )
        for figure, unit, scale, most in figures
    ]


def _rows_of_runs(runs: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for run in runs:
        about, largest = f"{run['keys']:,} keys, {run['events']:,} new events", run is runs[-1]
        ours = total(run["forecache"])
        for peer, title in PEERS.items():
            if peer not in run:
                continue
            theirs = total(run[peer])
            for figure, unit, scale in (("seconds", "s", 1.0), ("cpu_s", "CPU s", 1.0), ("peak_bytes", "GB", 1e-9)):
                mine, other = Value.of([ours[figure] * scale]), Value.of([theirs[figure] * scale])
                asked = Asked(_MOST[peer], at_least=False) if largest and figure == "seconds" else None
                key = peer if asked is not None else ""
                rows.append(Row(f"{about}, {unit}", mine, unit, title, other, mine / other, asked, key))
        if largest:
            asked = Asked(_MOST_GB, at_least=False, of_ratio=False, unit="GB")
            rows.append(Row(f"{about}: largest memory", Value.of([ours["peak_bytes"] / 1e9]), "GB", asked=asked))
        for who, title in {"forecache": "Forecache", **PEERS}.items():
            for stage, found in run.get(who, {}).get("stages", {}).items():
                text = f"{about}, {title}: {stage} ({found['cpu_s']:.1f} CPU s, {found['peak_bytes'] / 1e9:.2f} GB)"
                rows.append(Row(text, Value.of([found["seconds"]]), "s"))
        for stage in ("ingest", "features"):
            before = run["before"]["stages"][stage]
            text = f"{about}, the history before: {stage} ({before['cpu_s']:.1f} CPU s)"
            rows.append(Row(text, Value.of([before["seconds"]]), "s"))
    if len(runs) > 1:
        few, many = total(runs[0]["forecache"]), total(runs[-1]["forecache"])
        times = f"{runs[-1]['keys'] / runs[0]['keys']:.3g} times the keys and events"
        for figure, title in (("seconds", "time"), ("cpu_s", "CPU time"), ("peak_bytes", "memory")):
            rows.append(Row(f"{times}: {title} grows by", Value.of([many[figure] / few[figure]])))
    return rows


def total(contender: dict[str, Any]) -> dict[str, float]:
    """Seconds and CPU seconds of all stages, and the largest memory."""
    stages = list(contender["stages"].values())
    found = {figure: sum(stage[figure] for stage in stages) for figure in ("seconds", "cpu_s")}
    return {**found, "peak_bytes": max(stage["peak_bytes"] for stage in stages)}
