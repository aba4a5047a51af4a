"""From the raw passes to rows of the table: medians with their spread, each beside its peer, with what is asked."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _common.rows import Asked, Row, Value

from _store import lookups, servers
from _store.processes import SETTINGS

Passes = list[dict[str, Any]]


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
        settings = [setting for setting in SETTINGS if setting in records[0]]
        loads = {setting: [load for record in records for load in record[setting]] for setting in settings}
        rate = {setting: Value.of(load["requests_per_s"] for load in loads[setting]) for setting in settings}
        p99 = {setting: Value.of(load["p99_ms"] for load in loads[setting]) for setting in settings}
        better = max(settings, key=lambda setting: rate[setting].median)
        found[name] = Surface(
            name,
            better,
            rate[better],
            Value.of(load["p50_ms"] for load in loads[better]),
            p99[better],
            min(p99.values(), key=lambda value: value.median),
            statistics.mean(record["content"]["body_bytes"] for record in records),
            statistics.mean(record["content"]["answer_bytes"] for record in records),
            sum(load["failed"] for setting in settings for load in loads[setting]),
        )
    return {name: found[name] for name in sorted(found, key=lambda name: name not in servers.MINE)}


FLOORS = {
    "http-one": {servers.FASTAPI: 1.7, servers.ASGI: 0.6, servers.RSGI: 0.6, "feast": 12.0},
    "http-many": {"feast": 25.0},
}
_FEAST = tuple(servers.FEAST_NAMES.values())


def http_rows(section: str, passes: Passes) -> list[Row]:
    """Ours against every peer: Feast in Feast's format, which decides, and in ours, which is told beside it."""
    found, floors, rows = surfaces(passes), FLOORS[section], []
    ours, same = found[servers.OURS], found[servers.OURS_FEAST]

    def add(mine: Surface, peer: str, floor: float | None = None, key: str = "") -> None:
        asked = None if floor is None else Asked(floor)
        theirs = found[peer].requests_per_s
        ratio = mine.requests_per_s / theirs
        rows.append(
            Row(f"{mine.name}: requests per second", mine.requests_per_s, "/s", peer, theirs, ratio, asked, key)
        )

    def add_p99(mine: Surface, peer: str, floor: float | None = None) -> None:
        # The peer's better p99 of both settings, ours at the setting of the requests per second.
        asked, theirs = None if floor is None else Asked(floor), found[peer].best_p99_ms
        rows.append(Row(f"{mine.name}: p99", mine.p99_ms, "ms", peer, theirs, theirs / mine.p99_ms, asked))

    for peer in _FEAST:
        add(same, peer, floors["feast"], key=peer)
        add_p99(same, peer, floors["feast"] if section == "http-one" else None)
    for peer in (servers.FASTAPI, servers.FASTAPI_DICT, servers.ASGI, servers.RSGI, *servers.STORES):
        add(ours, peer, floors.get(peer), key=peer)
        add_p99(ours, peer)
    for peer in _FEAST:
        add(ours, f"{peer}", None)
    add(found[servers.OURS_TOKENS], servers.OURS)
    add(found[servers.OURS_FEAST_TOKENS], servers.OURS_FEAST)
    add(found[servers.OURS_TOKENS], servers.RSGI)
    for peer in _FEAST:
        add(found[servers.OURS_FEAST_TOKENS], peer)
    add(found[servers.OURS_TWO], servers.OURS)
    add(found[servers.OURS_TWO], servers.RSGI_TWO)
    add(found[servers.OURS_FEAST_TWO], servers.FEAST_TWO)
    if section == "http-many":
        asked = Asked(5.0, at_least=False, of_ratio=False, unit="ms")
        rows.append(Row(f"{ours.name}: p99", ours.p99_ms, "ms", asked=asked))
    return rows


# In process -----------------------------------------------------------------------------------------------------


def in_process_rows(passes: Passes) -> list[Row]:
    rows = []
    for kind in ("forecache", "with deltas"):
        found = [each[kind] for each in passes if each.get(kind)]
        if not found:
            continue
        what = f"`get`, {found[0]['segments']} segment{'s' if found[0]['segments'] > 1 else ''}"
        for quantile, limit in (("p50", 2.0), ("p99", 10.0)):
            asked = Asked(limit, at_least=False, of_ratio=False, unit="us")
            rows.append(Row(f"{what}, {quantile}", _microseconds(found, quantile), "us", asked=asked))
        first = Value.of(item["first_touch_ns"]["p99"] / 1e3 for item in found)
        rows.append(Row(f"{what}, p99 of reads that also map the pages", first, "us"))
        many = Value.of(item["get_many_ns"] / 1e3 for item in found)
        rows.append(Row(f"`get_many` for a key, {what.partition(', ')[2]}", many, "us"))
    ours = _microseconds([each["forecache"] for each in passes], "p50")
    for name, peer in (("redis", "Redis GET, redis-py, TCP"), ("feast sqlite", "Feast SDK, SQLite"),
                       ("feast redis", "Feast SDK, Redis")):  # fmt: skip
        theirs = _microseconds([each[name] for each in passes], "p50")
        rows.append(Row("`get`, p50", ours, "us", peer, theirs, theirs / ours))
    return rows


def _microseconds(found: Sequence[dict[str, Any]], quantile: str) -> Value:
    return Value.of(item["get_ns"][quantile] / 1e3 for item in found)


# Look-ups -------------------------------------------------------------------------------------------------------


def lookup_rows(passes: Passes) -> list[Row]:
    found, redis = [], _lookup_us(passes, lookups.REDIS, "p50")
    for way in (lookups.BASE, lookups.DELTA):
        ours, peer = _lookup_us(passes, way, "p50"), "Redis MGET, redis-py with hiredis, Unix socket"
        asked = Asked(60.0, at_least=False, of_ratio=False, unit="us") if way == lookups.BASE else None
        what = f"matrix of {lookups.KEYS} keys of {passes[0]['keys']:,}, {lookups.FEATURES} features, {way}"
        found.append(Row(f"{what}, p50", ours, "us", peer, redis, redis / ours, asked, key=way))
        found.append(Row(f"{what}, p99", _lookup_us(passes, way, "p99"), "us"))
    rate = Value.of(each["keys"] / each["full_s"] for each in passes)
    return [*found, Row(f"full publish of rows with {lookups.FEATURES} features, verified", rate, "rows/s")]


def _lookup_us(passes: Passes, way: str, quantile: str) -> Value:
    return Value.of(each[way][quantile] / 1e3 for each in passes)


# Publish --------------------------------------------------------------------------------------------------------

_STATES = {
    "full": "full publish, fresh table",
    "new night": "a new night, 1 % differs",
    "rescored": "1 % scored again (MERGE)",
    "full after MERGE": "full publish after nights and MERGE",
}
_MEMORY_MB = 1_500.0


def publish_rows(passes: Passes) -> list[Row]:
    rate = Value.of(each["keys"] / each["full"]["seconds"] for each in passes)
    full = Value.of(each["full"]["seconds"] for each in passes)
    what, unit = f"full publish of {passes[0]['keys']:,} keys from Delta, verified", "keys/s"
    rows = [
        Row(what, rate, unit, asked=Asked(500_000, of_ratio=False, unit=unit), key="publish"),
        Row(what, full, "s"),
    ]
    best = max(passes[0]["feast"], key=lambda name: _feast_rate(passes, name).median)
    for name in passes[0]["feast"]:
        peer = f"`feast materialize`, Redis, {name}"
        few, many = (each["rows"] for each in passes[0]["feast"][name])
        theirs = Value.of(each["feast"][name][1]["rows_per_s"] for each in passes)
        rows.append(Row(what, rate, unit, f"{peer}, {many:,} rows with its fixed cost", theirs, rate / theirs))
        theirs = _feast_rate(passes, name)
        asked = Asked(25.0) if name == best else None
        rows.append(
            Row(what, rate, unit, f"{peer}, {many:,} rows less {few:,}: without it", theirs, rate / theirs, asked)
        )
    for name, title in (
        ("redis", "`redis-cli --pipe` into Redis"),
        ("postgres", "`COPY` into PostgreSQL, primary key"),
    ):
        loads = [each["loads"][name] for each in passes]
        whole = Value.of(each["rows"] / (each["encode_s"] + each["load_s"]) for each in loads)
        alone = Value.of(each["rows"] / each["load_s"] for each in loads)
        count = f"{loads[0]['rows']:,} rows"
        rows.append(Row(what, rate, unit, f"{title} from Delta, {count}, not verified", whole, rate / whole, key=name))
        rows.append(Row(what, rate, unit, f"{title} of a ready file, {count}, not verified", alone, rate / alone))
    for kind, change, floor in (("new night", "a whole new night in which 1 % differ", None),
                                ("rescored", "1 % of the night's keys scored again", 0.05)):  # fmt: skip
        taken = Value.of(each[kind]["seconds"] for each in passes)
        share = statistics.median(each[kind]["seconds"] / each["full"]["seconds"] for each in passes)
        asked = None if floor is None else Asked(floor, at_least=False)
        rows.append(Row(f"incremental publish: {change}", taken, "s", "the full publish", full, share, asked, key=kind))
    return rows + _memory_rows(passes)


def _feast_rate(passes: Passes, name: str) -> Value:
    """Rows per second of what a larger materialization takes longer than a smaller one; of the larger, where that took
    no longer, as at tiny sizes."""

    def rate(few: dict[str, Any], many: dict[str, Any]) -> float:
        longer_s = many["seconds"] - few["seconds"]
        return float((many["rows"] - few["rows"]) / longer_s if longer_s > 0 else many["rows_per_s"])

    return Value.of(rate(*each["feast"][name]) for each in passes)


def _memory_rows(passes: Passes) -> list[Row]:
    """The sum of all processes' VmHWM in every state, and what they held at one time."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for each in passes:
        for state in ("full", "new night", "rescored"):
            found.setdefault((each["keys"], state), []).append(each[state])
        for one in each["memory"]:
            found.setdefault((one["keys"], one["state"]), []).append(one)
    rows = []
    asked = Asked(_MEMORY_MB, at_least=False, of_ratio=False, unit="MB")
    worst = max(value for items in found.values() for value in (one["high_water_bytes"] for one in items)) / 1e6
    rows.append(Row("memory of a publish, VmHWM of all its processes added: largest of all states below",
                    Value.of([worst]), "MB", asked=asked, key="memory"))  # fmt: skip
    for (keys, state), items in found.items():
        what = f"memory, {keys:,} keys, {_STATES[state]}"
        rows.append(Row(f"{what}: VmHWM added", Value.of(one["high_water_bytes"] / 1e6 for one in items), "MB"))
        rows.append(Row(f"{what}: resident at one time", Value.of(one["resident_bytes"] / 1e6 for one in items), "MB"))
        rows.append(
            Row(f"{what}: anonymous at one time", Value.of(one["anonymous_bytes"] / 1e6 for one in items), "MB")
        )
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
    answers = sum(each["checked"]["answers"] for each in passes)
    under_load = Value.of(sum(item["under_load"] for item in each["publishes"]) for each in passes)
    rate = Value.of(each["during"]["requests_per_s"] for each in passes)
    quiet_rate = Value.of(each[when]["requests_per_s"] for each in passes for when in ("before", "after"))
    wanted, window_s = max(len(each["publishes"]) for each in passes), passes[0]["window_s"]
    nice = f"publisher at niceness {passes[0]['niceness']}"
    return [
        Row(f"publishes that ended within {window_s:g} s of load", under_load, asked=Asked(wanted, of_ratio=False)),
        Row("failed requests", failed, asked=Asked(0, at_least=False, of_ratio=False)),
        Row(f"answers that were not their version's, of {answers:,} checked", wrong,
            asked=Asked(0, at_least=False, of_ratio=False)),
        Row(f"p99 with publishes, closed loop, {nice} (ratio: median of passes)", during, "ms", "without publishes",
            quiet, ratio, Asked(2.0, at_least=False)),
        Row(f"requests per second with publishes, {nice}", rate, "/s", "without publishes", quiet_rate,
            rate / quiet_rate),
    ]  # fmt: skip


# Open loop ------------------------------------------------------------------------------------------------------


def open_rows(passes: Passes) -> list[Row]:
    """Ours against every server at the same rate, quantile by quantile; then both with rows being replaced."""
    rows = []
    rates, found = passes[0]["rates"], passes[0]["servers"]
    for rate in rates:
        for quantile in ("p50_ms", "p99_ms", "p999_ms"):
            what = f"{quantile.removesuffix('_ms').replace('p999', 'p99.9')} at {rate:,} requests/s"
            for name in found:
                if str(rate) not in found[name] or name in (servers.OURS, servers.OURS_FEAST):
                    continue
                mine = servers.OURS_FEAST if name in _FEAST else servers.OURS
                ours, theirs = (_milliseconds(passes, each, rate, quantile) for each in (mine, name))
                rows.append(Row(f"{mine}: {what}", ours, "ms", name, theirs, theirs / ours))
    rate = rates[1]
    quiet = passes[0]["publishing"]
    count = quiet[servers.OURS][0]["planned"]
    nice = f"{count} publishes of {passes[0]['changed']:,} keys at niceness {passes[0]['niceness']}"
    for quantile in ("p50_ms", "p99_ms", "p999_ms"):
        what = f"{quantile.removesuffix('_ms').replace('p999', 'p99.9')} at {rate:,} requests/s, {nice}"
        loads = {name: Value.of(run[quantile] for each in passes for run in each["publishing"][name]) for name in quiet}
        ours = loads[servers.OURS]
        without = _milliseconds(passes, servers.OURS, rate, quantile)
        key = "open" if quantile == "p99_ms" else ""
        for name, how in ((servers.REDIS_BLOCKING, "set by `redis-cli --pipe`"), (servers.POSTGRES, "updated")):
            theirs, peer = loads[name], f"{name}, as many keys {how}"
            rows.append(Row(f"{servers.OURS}: {what}", ours, "ms", peer, theirs, theirs / ours, key=key))
        rows.append(Row(f"{servers.OURS}: {what}", ours, "ms", "itself without publishes", without, ours / without))
    failed = sum(run["failed"] for each in passes for record in each["servers"].values() for runs in record.values()
                 for run in runs)  # fmt: skip
    failed += sum(run["failed"] for each in passes for runs in each["publishing"].values() for run in runs)
    ended = Value.of(run["publishes"] for each in passes for run in each["publishing"][servers.OURS])
    rows.append(Row("publishes that ended within the load", ended, asked=Asked(count, of_ratio=False)))
    return [*rows, Row("requests that failed, of all servers", Value.of([failed]))]


def _milliseconds(passes: Passes, name: str, rate: int, quantile: str) -> Value:
    return Value.of(run[quantile] for each in passes for run in each["servers"][name][str(rate)])


def rows_of(section: str, document: dict[str, Any]) -> list[Row]:
    """A section's rows; each ratio is of figures of that section."""
    passes = document["passes"]
    if section.startswith("http-"):
        return http_rows(section, passes)
    makers = {
        "in-process": in_process_rows,
        "look-ups": lookup_rows,
        "publish": publish_rows,
        "swap": swap_rows,
        "open": open_rows,
    }
    return makers[section](passes)
