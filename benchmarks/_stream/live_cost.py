"""Section live-cost: what a live layer costs reads over HTTP, by turns in one reader.

The same version is served four times: without a live layer, below an empty one, below one that answers every key, and
below one as large with other keys, in which every read looks in vain. Each is read in a closed loop on a core of its
own; runs follow one another in pairs with those of the store without a layer.
"""

import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from _common.processes import cpu_s, reader_at
from _common.rows import Asked, Row, Value
from _store.load import Target, run_load
from _store.processes import SERVER_CORE, free_port
from _store.progress import say
from _store.servers import published_home, reader

from _stream.sizes import Sizes

PLAIN, EMPTY, ANSWERS, IN_VAIN = "churn", "empty", "answers", "in_vain"
SIDES = {
    EMPTY: ("below an empty live layer", 0.97),
    ANSWERS: ("answered from a live layer of {rows:,} rows", 0.85),
    IN_VAIN: ("below a live layer of {rows:,} other keys", 0.85),
}
"""What each store beside the plain one is, and the share of the plain one's throughput that is asked for."""
WORKLOADS = {"one": "Reads of one key", "many": "Reads of 100 keys"}
_NOW_US = 1_767_225_600_000_000


@dataclass(frozen=True)
class _Size:
    rows: int
    rounds: int
    window_s: float


_SIZES = {"tiny": _Size(5_000, 2, 1.0), "full": _Size(1_000_000, 6, 3.0)}


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Runs of every side: requests a second and the reader's processor time of one, in pairs with the plain store's."""
    size = _SIZES[sizes.name]
    home = published_home(work, size.rows)
    for side in SIDES:
        _copy(home / "store", side, size.rows)
    found: dict[str, Any] = {"rows": size.rows, "sides": {}}
    port = free_port()
    with reader(home)(port, SERVER_CORE):
        for workload in WORKLOADS:
            for side in (PLAIN, *SIDES):
                _run(port, side, workload, size, 1.0, 0)
            for number in range(size.rounds):
                for side in SIDES if number % 2 else reversed(SIDES):
                    pair = [_run(port, each, workload, size, size.window_s, number) for each in (PLAIN, side)]
                    found["sides"].setdefault(f"{workload} {side}", []).append(pair)
                    say(f"live-cost, {workload} {side}, {number + 1} of {size.rounds}: {_told(*pair)}")
    return found


def _told(plain: dict[str, float], ours: dict[str, float]) -> str:
    rates = f"{plain['requests_per_s']:,.0f} -> {ours['requests_per_s']:,.0f} requests/s"
    return f"{rates}, {plain['cpu_us']:.1f} -> {ours['cpu_us']:.1f} us"


def _run(port: int, side: str, workload: str, size: _Size, seconds: float, seed: int) -> dict[str, float]:
    kind, path = ("get", f"/v1/{side}/") if workload == "one" else ("many", f"/v1/{side}")
    processes = reader_at(port)
    before = cpu_s(processes)
    load = run_load(Target(port, kind, path), workload, num_keys=size.rows, seconds=seconds, seed=seed, one_core=True)
    return {
        "requests_per_s": load.requests_per_s,
        "cpu_us": (cpu_s(processes) - before) / load.requests * 1e6,
        "failed": float(load.failed),
    }


def _copy(folder: Path, side: str, rows: int) -> None:
    """The published store once more, its files linked, with the side's live layer."""
    from forecache.serve.store import Store
    from forecache.serve.store.live.layer import LiveLayer, LiveRow, write_layer
    from forecache.serve.store.live.writer import open_live_writer

    shutil.rmtree(folder / side, ignore_errors=True)
    shutil.copytree(folder / PLAIN, folder / side, copy_function=os.link)
    store = Store(folder / side)
    with store.snapshot() as snapshot, open_live_writer(store.layout) as writer:
        manifest = snapshot.manifest
        write_layer(store.layout, LiveLayer("bench", "stream_bench", "rows", manifest.key, manifest.fields))
        made_by = b'{"model":{"name":"churn","version":3},"release":7}'
        keys = (key for key, _ in snapshot.items())
        version = 0
        while side != EMPTY and (some := list(islice(keys, 50_000))):
            values = snapshot.get_many(some)
            named = some if side == ANSWERS else [b"x" + key for key in some]
            made = (LiveRow(version, _NOW_US, value or b"{}", made_by) for value in values)
            writer.apply(version, zip(named, made, strict=True))
            version += 1
        assert writer.entries == (0 if side == EMPTY else rows)


def rows_of(section: dict[str, Any]) -> list[Row]:
    rows = []
    for workload, title in WORKLOADS.items():
        for side, (what, least) in SIDES.items():
            pairs = section["sides"][f"{workload} {side}"]
            plain, ours = ([pair[place]["requests_per_s"] for pair in pairs] for place in (0, 1))
            ratios = sorted(mine / other for mine, other in zip(ours, plain, strict=True))
            asked = Asked(least) if workload == "one" else None
            rows.append(
                Row(f"{title} {what.format(rows=section['rows'])}", Value.of(ours), "/s", "without a live layer",
                    Value.of(plain), ratio=Value.of(ratios).median, asked=asked, key=f"{workload} {side}")
            )  # fmt: skip
            cpu = [Value.of(pair[place]["cpu_us"] for pair in pairs) for place in (1, 0)]
            rows.append(
                Row("The reader's processor time of one of them", cpu[0], "us", "without a live layer", cpu[1],
                    ratio=cpu[1].median / cpu[0].median)
            )  # fmt: skip
    failed = sum(run["failed"] for pairs in section["sides"].values() for pair in pairs for run in pair)
    return [*rows, Row("Reads that failed", Value.of([failed]), asked=Asked(0, at_least=False, of_ratio=False))]
