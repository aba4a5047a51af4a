"""The figures of batch scoring beside their peers and limits, and the plot."""

import statistics
from pathlib import Path
from typing import Any

from _common.rows import Asked, Row, Value, paired

SECTIONS = {
    "warm": "one night in a session that has run before",
    "cold": "the first run of a new session",
    "trees": "a LightGBM model of 200 trees",
    "arrow": "without a JVM",
    "incremental": "1 percent of the entities changed",
    "scaling": "cores and rows",
    "kill": "killed, and run again",
}
_BY_HAND = "`mapInArrow` and ONNX Runtime, written by hand"
_NAMES = {"score": "`score()`", "udf": "`scoring_udf`", "mlflow": "mlflow's `spark_udf`", "map_in_arrow": _BY_HAND}
_ALONE = {"polars": "Polars and ONNX Runtime", "duckdb": "DuckDB and ONNX Runtime"}
_WHOLE = "whole stage: every column, checks, ledger"


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    """A section's rows; each ratio is of figures of that section."""
    makers = {
        "warm": _warm, "cold": _cold, "trees": _trees, "arrow": _arrow, "incremental": _incremental,
        "scaling": _scaling, "kill": _kill,
    }  # fmt: skip
    return makers[name](section)


def _speed(rows: int, seconds: list[float]) -> Value:
    return Value.of(rows / each / 1e6 for each in seconds)


def _mlflow(section: dict[str, Any]) -> str:
    return f"mlflow's `spark_udf` ({section['mlflow_setting']})"


def _settings(section: dict[str, Any]) -> list[Row]:
    """mlflow's UDF at every setting that was tried, against its best."""
    tried = section["tuning"]
    rows, best = tried["rows"], tried["seconds"][tried["best"]]
    theirs = _speed(rows, [best])
    return [
        Row(f"the peer itself, {rows:,} rows once: mlflow's `spark_udf`, {name}", _speed(rows, [seconds]), "M rows/s",
            "its best setting", theirs, best / seconds)
        for name, seconds in tried["seconds"].items()
    ]  # fmt: skip


def _warm(section: dict[str, Any]) -> list[Row]:
    seconds, size = section["seconds"], section["rows"]
    udf, mlflow, copy, whole, floor = (seconds[name] for name in ("udf", "mlflow", "copy", "score", "constant"))
    peer, theirs, unit = _mlflow(section), _speed(size, mlflow), "M rows/s"
    difference = section["answers"]["largest_difference"]
    by_hand = seconds["map_in_arrow"]
    return [
        Row("`scoring_udf`", _speed(size, udf), unit, peer, theirs, paired(udf, mlflow), Asked(1.6), key="udf"),
        Row(f"`score()`, {_WHOLE}; the peer writes keys and predictions", _speed(size, whole), unit, peer, theirs,
            paired(whole, mlflow), Asked(1.6)),
        Row("`scoring_udf`", _speed(size, udf), unit, _BY_HAND, _speed(size, by_hand), paired(udf, by_hand)),
        Row(f"`score()`, {_WHOLE}; the peer writes keys and predictions", _speed(size, whole), unit, _BY_HAND,
            _speed(size, by_hand), paired(whole, by_hand)),
        Row("`scoring_udf`", Value.of(udf), "s", "copying two columns", Value.of(copy), 1 / paired(udf, copy),
            Asked(2.5, at_least=False)),
        Row("`scoring_udf`", Value.of(udf), "s", "a column function that returns a constant", Value.of(floor),
            1 / paired(udf, floor)),
        *_settings(section),
        *(
            Row(f"largest difference of a prediction from `score()`'s: {_NAMES.get(name) or _ALONE[name]}",
                Value.of([value]), asked=Asked(1e-5, at_least=False, of_ratio=False))
            for name, value in difference.items()
        ),
    ]  # fmt: skip


def _cold(section: dict[str, Any]) -> list[Row]:
    rows = []
    peer = _mlflow(section)
    for name in ("score", "udf"):
        for what, kind, parts, limit in (
            ("first run of a session", "runs", ("run_s",), Asked(3.0)),
            ("first run, with the session's start", "runs", ("session_s", "run_s"), None),
            ("first run, after a plain copy", "runs_after_copy", ("run_s",), None),
        ):
            ours, theirs = ([sum(run[p] for p in parts) for run in section[kind][who]] for who in (name, "mlflow"))
            rows.append(
                Row(f"{_NAMES[name]}: {what}", Value.of(ours), "s", peer, Value.of(theirs), paired(ours, theirs), limit)
            )
    ours, theirs = ([run["run_s"] for run in section["runs"][who]] for who in ("copy", "mlflow"))
    what = "a plain copy of two columns: first run of a session"
    return [*rows, Row(what, Value.of(ours), "s", peer, Value.of(theirs), paired(ours, theirs))]


def _trees(section: dict[str, Any]) -> list[Row]:
    seconds, rows = section["seconds"], section["rows"]
    ours, peer = seconds["udf"], seconds["mlflow"]
    return [
        Row("`scoring_udf`, LightGBM", _speed(rows, ours), "M rows/s", _mlflow(section), _speed(rows, peer),
            paired(ours, peer), Asked(1.2)),
        *_settings(section),
    ]  # fmt: skip


def _arrow(section: dict[str, Any]) -> list[Row]:
    rows = []
    mlflow = section["mlflow"]
    for size, runs in section["runs"].items():
        count, ours = int(size), runs["score"]
        what, mine = f"Forecache without a JVM, {count:,} rows, {_WHOLE}", _speed(count, ours["seconds"])
        if count == section["rows"]:
            theirs = _speed(count, mlflow["seconds"]["mlflow"])
            rows.append(Row(what, mine, "M rows/s", _mlflow(mlflow), theirs, mine / theirs, Asked(2.5)))
        for name, title in _ALONE.items():
            theirs = _speed(count, runs[name]["seconds"])
            key = f"arrow {name}" if count == section["rows"] else ""
            rows.append(Row(f"{what}; the peer writes keys and predictions", mine, "M rows/s", title, theirs,
                            mine / theirs, key=key))  # fmt: skip
        peak = Value.of([ours["peak_bytes"] / 1e9])
        asked = Asked(2.0, at_least=False, of_ratio=False, unit="GB")
        for place, (name, title) in enumerate(_ALONE.items()):
            theirs = Value.of([runs[name]["peak_bytes"] / 1e9])
            rows.append(Row(f"its memory (VmHWM), {count:,} rows", peak, "GB", title, theirs, peak / theirs,
                            asked if not place else None))  # fmt: skip
    return rows


def _incremental(section: dict[str, Any]) -> list[Row]:
    trees = section["trees"]
    rows = []
    for what, found, peer, limit in (
        ("`score()`", section, "full", Asked(0.15, at_least=False)),
        ("`score()`", section, "mlflow", None),
        ("`score()`, LightGBM", trees, "full", None),
    ):
        ours, theirs = Value.of(found["incremental_s"]), Value.of(found[f"{peer}_s"])
        name = "a full run" if peer == "full" else "mlflow's `spark_udf` over all rows, its best setting"
        rows.append(Row(f"{what}, {section['share']:.0%} of {found['rows']:,} entities changed", ours, "s", name,
                        theirs,
                        ours / theirs, limit))  # fmt: skip
    return rows


def _scaling(section: dict[str, Any]) -> list[Row]:
    size, cores = section["rows"], section["cores"]
    rows: list[Row] = []
    for name, limit in (("score", 1.5), ("udf", None), ("mlflow", None)):
        one, two = (_speed(size, cores[count]["seconds"][name]) for count in ("1", "2"))
        asked = None if limit is None else Asked(limit)
        rows.append(Row(f"{_NAMES[name]} on 2 cores", two, "M rows/s", "itself on 1 core", one, two / one, asked))
    for count in ("1", "2"):
        seconds = cores[count]["seconds"]
        for name in ("score", "udf"):
            ours, theirs = _speed(size, seconds[name]), _speed(size, seconds["mlflow"])
            what = f"{_NAMES[name]}, {count} core{'s' if count == '2' else ''}"
            rows.append(
                Row(what, ours, "M rows/s", _mlflow(cores[count]), theirs, paired(seconds[name], seconds["mlflow"]))
            )
    each = {int(n): found["seconds"]["score"] for n, found in section["by_rows"].items()}
    each[size] = cores["2"]["seconds"]["score"]
    smallest, *larger = sorted(each)
    first = Value.of(s / smallest * 1e6 for s in each[smallest])
    for count in larger:
        mine = Value.of(s / count * 1e6 for s in each[count])
        rows.append(Row(f"`score()`, time for a row at {count:,} rows", mine, "us", f"itself at {smallest:,} rows",
                        first,
                        mine / first, Asked(1.2, at_least=False)))  # fmt: skip
    return rows


def _kill(section: dict[str, Any]) -> list[Row]:
    ours, theirs = Value.of([section["total_rows"]]), Value.of([section["rows"]])
    return [
        Row(f"killed at {section['killed_at']:.0%} and run again: rows scored in all", ours, "rows", "a run left alone",
            theirs, ours / theirs, Asked(1.1, at_least=False)),
        Row("the two tables are identical (1: yes)", Value.of([float(section["identical"])]),
            asked=Asked(1, of_ratio=False)),
    ]  # fmt: skip


def plot(sections: dict[str, Any], path: Path) -> None:
    """Rows per second of the contenders of the sections `warm` and `arrow`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 3.5), layout="constrained")
    found: dict[str, dict[str, float]] = {"warm": {}, "arrow": {}}
    if "warm" in sections:
        section = sections["warm"]
        found["warm"] = {n: section["rows"] / statistics.median(s) / 1e6 for n, s in section["seconds"].items()}
    if "arrow" in sections:
        section = sections["arrow"]
        runs = {"mlflow": section["mlflow"]["seconds"]["mlflow"]}
        runs |= {name: run["seconds"] for name, run in section["runs"][str(section["rows"])].items()}
        found["arrow"] = {n: section["rows"] / statistics.median(s) / 1e6 for n, s in runs.items()}
    for axis, (name, speeds) in zip(axes, found.items(), strict=True):
        axis.barh(list(speeds), list(speeds.values()))
        axis.set_title(SECTIONS[name], loc="left", fontsize=10)
        axis.set_xlabel("million rows per second, writing Delta")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
