"""The figures against their peers and floors, as a table and as a plot."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure: ours, its peer's, their ratio, and the limit that the ratio has to meet."""

    section: str
    what: str
    ours: str
    peer: str
    ratio: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def rows_of(sections: dict[str, Any]) -> list[Row]:
    """The table's rows for the sections that were measured, in the order they are measured in."""
    makers = {"reading": _reading, "workers": _workers, "memory": _memory, "checkpoints": _checkpoints, "chaos": _chaos}
    return [row for name, make in makers.items() if name in sections for row in make(sections[name])]


def _speed(value: float) -> str:
    return f"{value:,.0f} samples/s"


def _reading(found: dict[str, Any]) -> list[Row]:
    speeds = found["rows_per_s"]
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    plain = max(middle["dataloader_pandas"], middle["dataloader_pandas_2_workers"])
    delta, memory, matrix = middle["delta"], middle["memory"], middle["dataloader_matrix"]
    return [
        Row(
            "reading",
            "tensors in memory",
            _speed(delta),
            _speed(memory),
            _paired(speeds["delta"], speeds["memory"]),
            0.9,
        ),
        Row(
            "reading", "DataLoader over pandas (best of 0, 2 workers)", _speed(delta), _speed(plain), delta / plain, 3.0
        ),
        Row("reading", "DataLoader over its numpy matrix", _speed(delta), _speed(matrix), delta / matrix, 1.0),
    ]


def _paired(ours: list[float], peers: list[float]) -> float:
    """The median of the ratios of neighbours in time, which a busier minute moves less than the ratio of medians."""
    return statistics.median(mine / other for mine, other in zip(ours, peers, strict=True))


def _workers(found: dict[str, Any]) -> list[Row]:
    two, one = found["rows_per_s"]["2"], found["rows_per_s"]["1"]
    return [
        Row(
            "workers",
            "two processes against one",
            _speed(statistics.median(two)),
            _speed(statistics.median(one)),
            _paired(two, one),
            1.5,
        )
    ]


def _memory(found: dict[str, Any]) -> list[Row]:
    (small, small_bytes), (large, large_bytes) = found["peak_bytes"].items()
    what = f"peak at {int(large):,} rows against {int(small):,}"
    ours, peer = f"{large_bytes / 1e6:,.0f} MB", f"{small_bytes / 1e6:,.0f} MB"
    return [Row("memory", what, ours, peer, large_bytes / small_bytes, 1.10, at_least=False)]


def _checkpoints(found: dict[str, Any]) -> list[Row]:
    every, never = found["rows_per_s"]["every_50_steps"], found["rows_per_s"]["never"]
    ours, peer = _speed(statistics.median(every)), _speed(statistics.median(never))
    return [Row("checkpoints", "every 50 steps against none", ours, peer, _paired(every, never), 0.95)]


def _chaos(found: dict[str, Any]) -> list[Row]:
    kills, interval = sum(found["kills"].values()), found["checkpoint_steps"]
    equal = [found[name] for name in ("equal_weights", "equal_samples", "equal_history")]
    repeated, lost_s = found["steps_repeated"] / max(1, kills), found["seconds"] - found["seconds_alone"]
    lost = f"steps repeated a kill ({lost_s / max(1, kills):.1f} s lost a kill)"
    return [
        Row("chaos", "kills", str(kills), "20", kills / 20, 1.0),
        Row("chaos", "weights, samples, history equal", f"{sum(equal)} of 3", "run alone", sum(equal) / 3, 1.0),
        # One interval, and one more whose checkpoint was still being written.
        Row("chaos", lost, f"{repeated:.1f}", f"{interval} an interval", repeated / interval, 2.0, at_least=False),
    ]


def show(rows: list[Row]) -> None:
    """Print the table."""
    heads = ("section", "against", "forecache", "peer", "ratio", "limit", "")
    cells = [
        (
            row.section,
            row.what,
            row.ours,
            row.peer,
            f"{row.ratio:.2f}",
            f"{'>=' if row.at_least else '<='} {row.limit:g}",
            "met" if row.met else "MISSED",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for line in [heads, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def plot(rows: list[Row], path: Path) -> None:
    """Draw each ratio as a share of its limit, so that one line says what is met."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = list(reversed(rows))
    scores = [row.ratio / row.limit if row.at_least else row.limit / max(row.ratio, row.limit / 10) for row in shown]
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(shown) + 1.5), layout="constrained")
    colours = ["#2a7f62" if row.met else "#b3432b" for row in shown]
    axes.barh([f"{row.section}: {row.what}" for row in shown], scores, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    for position, row in enumerate(shown):
        text = f"  {row.ours} / {row.peer} = {row.ratio:.2f}"
        axes.text(scores[position], position, text, va="center", fontsize=8)
    axes.set_xlabel("ratio to the limit; right of the line is met")
    axes.set_xlim(0, max(scores) * 1.6)
    axes.set_title("Training")
    figure.savefig(path, dpi=120)
    plt.close(figure)
