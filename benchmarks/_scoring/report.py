"""The figures against their peers and limits, as a table and as a plot."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure: ours, its peer's, their ratio, and the limit that the ratio has to meet."""

    what: str
    ours: str
    peer: str
    ratio: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
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


def _speed(rows: int, seconds: float) -> str:
    return f"{rows / seconds / 1e6:.2f} M rows/s"


def _paired(ours: list[float], peers: list[float]) -> float:
    """The median of the ratios of neighbours in time, which a busier minute moves less than the ratio of medians."""
    return statistics.median(peer / mine for mine, peer in zip(ours, peers, strict=True))


def _warm(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    seconds, rows = section["seconds"], section["rows"]
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    mlflow = _speed(rows, middle["mlflow"])
    told = _speed(rows, middle["score"])
    return [
        Row(
            "scoring_udf, warm, against mlflow's spark_udf",
            _speed(rows, middle["udf"]),
            mlflow,
            _paired(seconds["udf"], seconds["mlflow"]),
            1.6,
        ),
        Row(
            "score(): all columns, checks, ledger, against mlflow's spark_udf alone",
            told,
            mlflow,
            _paired(seconds["score"], seconds["mlflow"]),
            1.0,
        ),
        Row(
            "scoring_udf: time against copying two columns",
            f"{middle['udf']:.2f} s",
            f"{middle['copy']:.2f} s",
            1 / _paired(seconds["udf"], seconds["copy"]),
            2.5,
            at_least=False,
        ),
    ]


def _cold(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    ours, peer = (statistics.median(section["seconds"][name]) for name in ("udf", "mlflow"))
    return [Row("scoring_udf, first run of a session", f"{ours:.1f} s", f"{peer:.1f} s", peer / ours, 3.0)]


def _trees(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    seconds, rows = section["seconds"], section["rows"]
    ours, peer = (statistics.median(seconds[name]) for name in ("udf", "mlflow"))
    what = "scoring_udf with LightGBM, 200 trees"
    return [Row(what, _speed(rows, ours), _speed(rows, peer), _paired(seconds["udf"], seconds["mlflow"]), 1.2)]


def _arrow(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    sizes = sorted(section["runs"], key=int)
    rows: list[Row] = []
    if "warm" in found:
        warm = found["warm"]
        peer = statistics.median(warm["seconds"]["mlflow"]) / warm["rows"]
        ours = statistics.median(section["runs"][sizes[0]]["seconds"]) / int(sizes[0])
        rows.append(
            Row("score(engine='arrow')", f"{1e-6 / ours:.2f} M rows/s", f"{1e-6 / peer:.2f} M rows/s", peer / ours, 2.5)
        )
    for size in sizes:
        peak = section["runs"][size]["peak_bytes"] / 1e9
        rows.append(Row(f"its memory at {int(size):,} rows", f"{peak:.2f} GB", "2 GB", peak / 2, 1.0, at_least=False))
    return rows


def _incremental(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    ours, peer = statistics.median(section["incremental_s"]), statistics.median(section["full_s"])
    what = f"incremental, {section['share']:.0%} of entities changed, against a full run"
    return [Row(what, f"{ours:.2f} s", f"{peer:.2f} s", ours / peer, 0.15, at_least=False)]


def _scaling(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    if len(section["cores"]) == 2:
        one, two = (statistics.median(section["cores"][n]) for n in ("1", "2"))
        rows.append(Row("score() on 2 cores against 1", f"{two:.1f} s", f"{one:.1f} s", one / two, 1.5))
    sizes = sorted(section["rows"], key=int)
    per_row = [statistics.median(section["rows"][size]) / int(size) for size in sizes]
    what = f"seconds a row, {int(sizes[-1]):,} rows against {int(sizes[0]):,}"
    rows.append(
        Row(what, f"{per_row[-1] * 1e6:.2f} us", f"{per_row[0] * 1e6:.2f} us", per_row[-1] / per_row[0], 1.2, False)
    )
    return rows


def _kill(section: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    work = section["total_rows"] / section["rows"]
    what = f"killed at {section['killed_at']:.0%}, run again: rows scored in all"
    told = "identical table" if section["identical"] else "ANOTHER TABLE"
    return [Row(f"{what} ({told})", f"{section['total_rows']:,}", f"{section['rows']:,}", work, 1.1, at_least=False)]


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "ours", "against", "ratio", "limit", "met")
    for row in rows:
        limit = f"{'at least' if row.at_least else 'at most'} {row.limit:g}"
        table.add_row(row.what, row.ours, row.peer, f"{row.ratio:.2f}", limit, "yes" if row.met else "NO")
    Console(width=150).print(table)


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
        sizes = sorted(found["scaling"]["rows"], key=int)
        times = [statistics.median(found["scaling"]["rows"][size]) for size in sizes]
        right.plot([int(size) / 1e6 for size in sizes], times, marker="o")
        right.set_xlabel("million rows")
        right.set_ylabel("seconds, score() on Spark")
        right.set_xlim(left=0)
        right.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
