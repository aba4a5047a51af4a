"""From the raw passes to figures: medians with their spread, each beside its peer, the ratio and the issue's floor."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from _store import servers
from _store.processes import SETTINGS

Passes = list[dict[str, Any]]


@dataclass(frozen=True)
class Value:
    """The median of some samples, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Value":
        found = sorted(samples)
        return cls(statistics.median(found), found[0], found[-1])

    def __truediv__(self, other: "Value") -> float:
        return self.median / other.median


@dataclass(frozen=True)
class Row:
    """A figure beside its peer. `met` is None where the issue sets no floor."""

    section: str
    figure: str
    unit: str
    ours: Value
    peer: str = ""
    theirs: Value | None = None
    ratio: float | None = None
    floor: str = ""
    met: bool | None = None


def at_least(ratio: float, floor: float | None) -> dict[str, Any]:
    return {"ratio": ratio} if floor is None else {"ratio": ratio, "floor": f">= {floor:g} x", "met": ratio >= floor}


# HTTP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """A server's figures at its better setting: the one with more requests per second."""

    name: str
    setting: str
    requests_per_s: Value
    p50_ms: Value
    p99_ms: Value
    best_p99_ms: Value
    body_bytes: float
    answer_bytes: float
    failed: int


def surfaces(passes: Passes) -> dict[str, Surface]:
    """Every surface of an HTTP section, ours first."""
    found = {}
    for name in passes[0]["surfaces"]:
        records = [each["surfaces"][name] for each in passes if name in each["surfaces"]]
        loads = {setting: [load for record in records for load in record[setting]] for setting in SETTINGS}
        rate = {setting: Value.of(load["requests_per_s"] for load in loads[setting]) for setting in SETTINGS}
        p99 = {setting: Value.of(load["p99_ms"] for load in loads[setting]) for setting in SETTINGS}
        better = max(SETTINGS, key=lambda setting: rate[setting].median)
        found[name] = Surface(
            name,
            better,
            rate[better],
            Value.of(load["p50_ms"] for load in loads[better]),
            p99[better],
            min(p99.values(), key=lambda value: value.median),
            statistics.mean(record["content"]["body_bytes"] for record in records),
            statistics.mean(record["content"]["answer_bytes"] for record in records),
            sum(load["failed"] for setting in SETTINGS for load in loads[setting]),
        )
    order = [servers.OURS, servers.OURS_FEAST, servers.FASTAPI, servers.FASTAPI_DICT, servers.ASGI, servers.RSGI]
    order += servers.FEAST_NAMES.values()
    return {name: found[name] for name in order if name in found}


FLOORS = {
    "http-one": {servers.FASTAPI: 1.7, servers.ASGI: 0.6, servers.RSGI: 0.6, "feast": 15.0},
    "http-many": {"feast": 30.0},
}


def http_rows(section: str, passes: Passes) -> list[Row]:
    found = surfaces(passes)
    ours, floors, rows = found[servers.OURS], FLOORS[section], []
    feast = servers.FEAST_NAMES.values()

    def add(figure: str, unit: str, mine: Value, peer: str, theirs: Value, ratio: float, floor: float | None) -> None:
        rows.append(Row(section, figure, unit, mine, peer, theirs, **at_least(ratio, floor)))

    for name, peer in found.items():
        if name in (servers.OURS, servers.OURS_FEAST):
            continue
        floor = floors["feast"] if name in feast else floors.get(name)
        mine, theirs = ours.requests_per_s, peer.requests_per_s
        add("requests per second", "/s", mine, name, theirs, mine / theirs, floor)
    for name in feast:
        # The peer's better p99 of both settings, ours at the setting of the requests per second.
        theirs = found[name].best_p99_ms
        floor = floors["feast"] if section == "http-one" else None
        add("p99 latency", "ms", ours.p99_ms, name, theirs, theirs / ours.p99_ms, floor)
    if section == "http-many":
        rows.append(Row(section, "p99 latency", "ms", ours.p99_ms, floor="< 5 ms", met=ours.p99_ms.median < 5))
    same = found[servers.OURS_FEAST]
    for name in feast:
        mine, theirs = same.requests_per_s, found[name].requests_per_s
        add("requests per second, Feast's own format", "/s", mine, name, theirs, mine / theirs, None)
    return rows


# In process -----------------------------------------------------------------------------------------------------


def in_process_rows(passes: Passes) -> list[Row]:
    rows = []
    for kind in ("forecache", "with deltas"):
        found = [each[kind] for each in passes if each.get(kind)]
        if not found:
            continue
        what = f"get, {found[0]['segments']} segment{'s' if found[0]['segments'] > 1 else ''}"
        for quantile, limit in (("p50", 2.0), ("p99", 10.0)):
            value = _microseconds(found, quantile)
            rows.append(
                Row("in-process", f"{what}, {quantile}", "us", value, floor=f"< {limit:g} us", met=value.median < limit)
            )
    ours = _microseconds([each["forecache"] for each in passes], "p50")
    for name, peer in (("redis", "Redis GET, redis-py"), ("feast sqlite", "Feast SDK, SQLite"),
                       ("feast redis", "Feast SDK, Redis")):  # fmt: skip
        theirs = _microseconds([each[name] for each in passes], "p50")
        rows.append(Row("in-process", "get, p50", "us", ours, peer, theirs, theirs / ours))
    return rows


def _microseconds(found: Sequence[dict[str, Any]], quantile: str) -> Value:
    return Value.of(item["get_ns"][quantile] / 1e3 for item in found)


# Publish --------------------------------------------------------------------------------------------------------


def publish_rows(passes: Passes) -> list[Row]:
    rate = Value.of(each["keys"] / each["full"]["seconds"] for each in passes)
    variants = {name: Value.of(each["feast"][name]["rows_per_s"] for each in passes) for name in passes[0]["feast"]}
    name, feast = max(variants.items(), key=lambda item: item[1].median)
    rows = [
        Row("publish", "full publish, verified", "keys/s", rate, floor=">= 500,000", met=rate.median >= 500_000),
        Row("publish", "full publish, verified", "keys/s", rate, f"feast materialize, Redis ({name})", feast,
            **at_least(rate / feast, 25.0)),
        Row("publish", "full publish", "s", Value.of(each["full"]["seconds"] for each in passes)),
    ]  # fmt: skip
    for each in [each["memory"] for each in passes if "memory" in each]:
        what, resident = f"peak memory of all processes, {each['keys']:,} keys", each["resident_bytes"] / 1e6
        rows += [
            Row("publish", f"{what}, resident", "MB", Value.of([resident]), floor="< 1,500 MB", met=resident < 1500),
            Row("publish", f"{what}, anonymous", "MB", Value.of([each["anonymous_bytes"] / 1e6])),
        ]
    for kind, what, floor in (("rescored", "1 % of the night's keys scored again", 0.05),
                              ("new night", "a whole new night in which 1 % differ", None)):  # fmt: skip
        taken = Value.of(each[kind]["seconds"] for each in passes)
        full = Value.of(each["full"]["seconds"] for each in passes)
        share = statistics.median(each[kind]["seconds"] / each["full"]["seconds"] for each in passes)
        verdict: dict[str, Any] = {"ratio": share}
        if floor is not None:
            verdict.update(floor=f"<= {floor:g} x", met=share <= floor)
        rows.append(Row("publish", f"incremental: {what}", "s", taken, "the full publish", full, **verdict))
    return rows


# Swaps ----------------------------------------------------------------------------------------------------------


def swap_rows(passes: Passes) -> list[Row]:
    during = Value.of(each["during"]["p99_ms"] for each in passes)
    quiet = Value.of(each[when]["p99_ms"] for each in passes for when in ("before", "after"))
    ratio = statistics.median(
        2 * each["during"]["p99_ms"] / (each["before"]["p99_ms"] + each["after"]["p99_ms"]) for each in passes
    )
    failed = Value.of(each["during"]["failed"] for each in passes)
    wrong = Value.of(each["checked"]["wrong"] for each in passes)
    under_load = Value.of(sum(item["under_load"] for item in each["publishes"]) for each in passes)
    rate = Value.of(each["during"]["requests_per_s"] for each in passes)
    quiet_rate = Value.of(each[when]["requests_per_s"] for each in passes for when in ("before", "after"))
    wanted = max(len(each["publishes"]) for each in passes)
    return [
        Row("swap", "publishes that ended under load", "", under_load, floor=f">= {wanted}",
            met=under_load.low >= wanted),
        Row("swap", "failed requests", "", failed, floor="0", met=failed.high == 0),
        Row("swap", "answers that were not their version's", "", wrong, floor="0", met=wrong.high == 0),
        Row("swap", "p99 latency with publishes", "ms", during, "without publishes", quiet,
            ratio, "<= 2 x", ratio <= 2.0),
        Row("swap", "requests per second with publishes", "/s", rate, "without publishes", quiet_rate,
            rate / quiet_rate),
    ]  # fmt: skip


def rows_of(section: str, passes: Passes) -> list[Row]:
    if section.startswith("http-"):
        return http_rows(section, passes)
    return {"in-process": in_process_rows, "publish": publish_rows, "swap": swap_rows}[section](passes)
