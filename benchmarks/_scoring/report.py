"""The figures against their peers and limits, as a table and as a plot."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAMES = {"score": "score()", "udf": "scoring_udf", "mlflow": "mlflow's spark_udf"}


@dataclass(frozen=True)
class Row:
    """One figure: ours, its peer's, their ratio, and the limit that the ratio has to meet, None where none is set."""

    what: str
    ours: str
    peer: str
    ratio: float
    limit: float | None
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def rows_of(found: dict[str, Any]) -> list[Row]:
    """The table's rows for the sections that were measured."""
    rows: list[Row] = []
    for name, make in {
        "warm": _warm,
        "cold": _cold,
        "trees": _trees,
        "arrow": _arrow,
        "incremental": _incremental,
        "scaling": _scaling,
        "kill": _kill,
    }.items():
        if name in found:
            rows += make(found[name], found)
    return rows


def _speed(rows: int, seconds: list[float]) -> str:
    slow, middle, fast = (rows / s / 1e6 for s in (max(seconds), statistics.median(seconds), min(seconds)))
    return f"{middle:.2f} M rows/s ({slow:.2f} to {fast:.2f})"


def _time(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _paired(ours: list[float], peers: list[float]) -> float:
    """The median of the ratios of neighbours in time, which a busier minute moves less than the ratio of medians."""
    return statistics.median(peer / mine for mine, peer in zip(ours, peers, strict=True))


def _warm(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    seconds, size = section["seconds"], section["rows"]
    udf, mlflow, copy, whole = (seconds[name] for name in ("udf", "mlflow", "copy", "score"))
    stage = "score(): all columns, checks, ledger, against mlflow's spark_udf alone"
    rows = [
        Row("scoring_udf, warm", _speed(size, udf), _speed(size, mlflow), _paired(udf, mlflow), 1.6),
        Row(stage, _speed(size, whole), _speed(size, mlflow), _paired(whole, mlflow), 1.6),
        Row("scoring_udf against copying two columns", _time(udf), _time(copy), 1 / _paired(udf, copy), 2.5, False),
    ]
    if "constant" in seconds:
        floor = seconds["constant"]
        what = "scoring_udf against a column function that returns a constant"
        rows.append(Row(what, _time(udf), _time(floor), 1 / _paired(udf, floor), None, False))
    return rows


def _cold(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    rows = []
    for contender, name in (("score(), the whole night", "score"), ("scoring_udf", "udf")):
        for what, kind, parts, limit in (
            (f"{contender}: first run of a session", "runs", ("run_s",), 3.0),
            ("the same with the session's start", "runs", ("session_s", "run_s"), None),
            ("the same without it, after a plain copy", "runs_after_copy", ("run_s",), None),
        ):
            ours, peer = ([sum(run[p] for p in parts) for run in section[kind][who]] for who in (name, "mlflow"))
            rows.append(Row(what, _time(ours), _time(peer), _paired(ours, peer), limit))
    if "copy" in section["runs"]:
        ours, peer = ([run["run_s"] for run in section["runs"][who]] for who in ("copy", "mlflow"))
        what = "a plain copy of two columns: first run of a session"
        rows.append(Row(what, _time(ours), _time(peer), _paired(ours, peer), None))
    return rows


def _trees(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    seconds, rows = section["seconds"], section["rows"]
    ours, peer = seconds["udf"], seconds["mlflow"]
    what = "scoring_udf with LightGBM, 200 trees"
    return [Row(what, _speed(rows, ours), _speed(rows, peer), _paired(ours, peer), 1.2)]


def _arrow(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    sizes = sorted(section["runs"], key=int)
    rows: list[Row] = []
    if "warm" in found:
        ours, peer = section["runs"][sizes[0]]["seconds"], found["warm"]["seconds"]["mlflow"]
        size, of = int(sizes[0]), found["warm"]["rows"]
        ratio = (size / statistics.median(ours)) / (of / statistics.median(peer))
        rows.append(Row("score(engine='arrow'), against mlflow warm", _speed(size, ours), _speed(of, peer), ratio, 2.5))
    for size_name in sizes:
        peak = section["runs"][size_name]["peak_bytes"] / 1e9
        rows.append(Row(f"its memory at {int(size_name):,} rows", f"{peak:.2f} GB", "2 GB", peak / 2, 1.0, False))
    return rows


def _incremental(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    what = f"incremental, {section['share']:.0%} of entities changed, against"
    ours = section["incremental_s"]
    rows = []
    for name, peer, limit in (
        ("a full run", section["full_s"], 0.15),
        ("mlflow's spark_udf over all rows, warm", section["mlflow_s"], None),
    ):
        ratio = statistics.median(ours) / statistics.median(peer)
        rows.append(Row(f"{what} {name}", _time(ours), _time(peer), ratio, limit, False))
    ours, peer = section["trees"]["incremental_s"], section["trees"]["full_s"]
    ratio = statistics.median(ours) / statistics.median(peer)
    return [
        *rows,
        Row(f"{what} a full run, both with LightGBM, 200 trees", _time(ours), _time(peer), ratio, None, False),
    ]


def _scaling(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    one, two = section["cores"]["1"], section["cores"]["2"]
    rows: list[Row] = []
    for name, limit in (("score", 1.5), ("udf", None), ("mlflow", None)):
        if name in one:
            ratio = statistics.median(one[name]) / statistics.median(two[name])
            rows.append(Row(f"{_NAMES[name]} on 2 cores against 1", _time(two[name]), _time(one[name]), ratio, limit))
    sizes = sorted(section["rows"], key=int)
    first = statistics.median(section["rows"][sizes[0]]["score"]) / int(sizes[0])
    for size in sizes[1:]:
        each = statistics.median(section["rows"][size]["score"]) / int(size)
        what = f"score(), time for a row, {int(size):,} rows against {int(sizes[0]):,}"
        rows.append(Row(what, f"{each * 1e6:.2f} us", f"{first * 1e6:.2f} us", each / first, 1.2, False))
    against = [
        (f"{_NAMES[name]}, {int(size):,} rows, {cores} {'core' if cores == '1' else 'cores'}", int(size), name, seconds)
        for size, cores, seconds in (
            *((size, "2", seconds) for size, seconds in section["rows"].items()),
            (str(section["rows_of_night"]), "1", one),
        )
        for name in ("score", "udf")
        if "mlflow" in seconds
    ]
    for what, size, name, seconds in against:
        ours, peer = seconds[name], seconds["mlflow"]
        rows.append(Row(f"{what}, against mlflow's", _speed(size, ours), _speed(size, peer), _paired(ours, peer), None))
    return rows


def _kill(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    work = section["total_rows"] / section["rows"]
    what = f"killed at {section['killed_at']:.0%}, run again: rows scored in all"
    told = "identical table" if section["identical"] else "ANOTHER TABLE"
    limit = 1.1 if section["identical"] else 0.0
    return [Row(f"{what} ({told})", f"{section['total_rows']:,}", f"{section['rows']:,}", work, limit, False)]


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "ours", "against", "ratio", "limit", "met")
    for row in rows:
        limit = "" if row.limit is None else f"{'at least' if row.at_least else 'at most'} {row.limit:g}"
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.what, row.ours, row.peer, f"{row.ratio:.2f}", limit, met)
    Console(width=170).print(table)


def plot(found: dict[str, Any], path: Path) -> None:
    """Rows per second of the contenders, and time against rows."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    if "warm" in found:
        seconds, rows = found["warm"]["seconds"], found["warm"]["rows"]
        speeds = {name: rows / statistics.median(values) / 1e6 for name, values in seconds.items()}
        if "arrow" in found:
            size = min(found["arrow"]["runs"], key=int)
            speeds["score, arrow"] = int(size) / statistics.median(found["arrow"]["runs"][size]["seconds"]) / 1e6
        left.barh(list(speeds), list(speeds.values()))
        left.set_xlabel("million rows per second, writing Delta")
    if "scaling" in found:
        by_rows = found["scaling"]["rows"]
        for name in ("score", "udf", "mlflow"):
            sizes = sorted((size for size in by_rows if name in by_rows[size]), key=int)
            times = [statistics.median(by_rows[size][name]) for size in sizes]
            right.plot([int(size) / 1e6 for size in sizes], times, marker="o", label=_NAMES[name])
        right.set_xlabel("million rows")
        right.set_ylabel("seconds, 2 cores, writing Delta")
        right.legend()
        right.set_xlim(left=0)
        right.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
