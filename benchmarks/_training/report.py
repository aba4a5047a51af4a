"""The figures of training beside their peers and limits, and the plot."""

from pathlib import Path
from typing import Any

from _common.rows import Asked, Row, Value, paired

SECTIONS = {
    "reading": "samples per second of the same loop, by what feeds it",
    "workers": "two processes against one",
    "memory": "a worker's memory and the table's size",
    "checkpoints": "checkpoints while training",
    "chaos": "killed at random moments",
}
_UNIT = "samples/s"


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    """A section's rows; each ratio is of figures of that section."""
    makers = {"reading": _reading, "workers": _workers, "memory": _memory, "checkpoints": _checkpoints, "chaos": _chaos}
    return makers[name](section)


def _reading(section: dict[str, Any]) -> list[Row]:
    rows = []
    for cores, found in section["cores"].items():
        speeds = {name: Value.of(values) for name, values in found["rows_per_s"].items()}
        what = f"rows streamed from a Delta table, shuffled, {cores} core{'s' if cores != '1' else ''} for all of it"
        best = max((name for name in speeds if name not in ("delta", "memory")), key=lambda name: speeds[name].median)
        for name, theirs in speeds.items():
            if name == "delta":
                continue
            asked, key = None, ""
            if name == "memory":
                asked = Asked(0.9) if cores == "2" else None
            elif name == best:
                asked, key = (Asked(1.0), "reading") if cores == "2" else (None, "")
            ratio = paired(found["rows_per_s"][name], found["rows_per_s"]["delta"])
            rows.append(Row(what, speeds["delta"], _UNIT, _peer(name), theirs, ratio, asked, key))
    return rows


def _peer(name: str) -> str:
    """A variant's name as the table has it."""
    if name == "memory":
        return "tensors in memory, loaded before"
    kind, _, workers = name.partition(", ")
    title = {
        "pandas rows": "DataLoader over a pandas frame",
        "matrix rows": "DataLoader over a numpy matrix",
        "matrix batches": "DataLoader over a numpy matrix, BatchSampler",
        "litdata": "LitData from its own format",
    }[kind]
    return f"{title}, {workers}"


def _workers(section: dict[str, Any]) -> list[Row]:
    two, one = section["rows_per_s"]["2"], section["rows_per_s"]["1"]
    what = "a compute-bound network, two processes"
    return [Row(what, Value.of(two), _UNIT, "one process", Value.of(one), paired(one, two), Asked(1.5))]


def _memory(section: dict[str, Any]) -> list[Row]:
    (small, small_bytes), (large, large_bytes) = section["peak_bytes"].items()
    ours, theirs = Value.of([large_bytes / 1e6]), Value.of([small_bytes / 1e6])
    asked = Asked(1.1, at_least=False)
    what = f"a worker's VmHWM, {int(large):,} rows"
    return [Row(what, ours, "MB", f"itself at {int(small):,} rows", theirs, ours / theirs, asked)]


def _checkpoints(section: dict[str, Any]) -> list[Row]:
    found = section["cores"]["2"]["rows_per_s"]
    every, never = found["every_50_steps"], found["never"]
    # The median of the ratios of neighbours: what the two medians would give is another number.
    what = "a checkpoint every 50 steps (ratio: median of neighbours)"
    return [Row(what, Value.of(every), _UNIT, "none", Value.of(never), paired(never, every), Asked(0.95))]


def _chaos(section: dict[str, Any]) -> list[Row]:
    kills, interval = sum(section["kills"].values()), section["checkpoint_steps"]
    equal = [section[name] for name in ("equal_weights", "equal_samples", "equal_history")]
    repeated, lost_s = section["steps_repeated"] / max(1, kills), section["seconds"] - section["seconds_alone"]
    return [
        Row("kills of a run of two processes", Value.of([kills]), asked=Asked(section["kills_asked"], of_ratio=False)),
        Row("weights, samples and losses equal to those of a run left alone: how many of 3", Value.of([sum(equal)]),
            asked=Asked(3, of_ratio=False)),
        # One interval, and one more whose checkpoint was still being written.
        Row(f"steps repeated a kill, at {interval} steps a checkpoint", Value.of([repeated]), "steps",
            asked=Asked(2 * interval, at_least=False, of_ratio=False, unit="steps")),
        Row("seconds lost a kill", Value.of([lost_s / max(1, kills)]), "s"),
    ]  # fmt: skip


def plot(sections: dict[str, Any], path: Path) -> None:
    """Samples per second of everything that feeds the loop, on two cores and on one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if "reading" not in sections:
        return
    found = sections["reading"]["cores"]
    figure, axes = plt.subplots(1, len(found), figsize=(14, 4), layout="constrained", squeeze=False)
    for axis, (cores, each) in zip(axes.flat, found.items(), strict=True):
        speeds = {name: Value.of(values).median for name, values in each["rows_per_s"].items()}
        names = sorted(speeds, key=lambda name: speeds[name])
        colours = ["#1f5f8b" if name == "delta" else "#9aa5ad" for name in names]
        axis.barh(names, [speeds[name] for name in names], color=colours)
        axis.set_title(f"{cores} cores", loc="left")
        axis.set_xlabel("samples per second while training")
    figure.savefig(path, dpi=120)
    plt.close(figure)
