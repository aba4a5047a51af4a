"""The table of docs/choose.md: what each way to answer was measured to take and cost."""

import statistics
from typing import Any

from _common import machine
from _common.rows import markdown, number
from _realtime.best_rate import OURS
from _realtime.report import CACHED
from _stream.processor import BROKER, ENGINE, READER, TAILER, core_hours_a_million

HEADS = ["Way", "Measured", "p50 [ms]", "p99 [ms]", "Core-hours a million", "Command"]
_NONE = "not measured"
_MODELS = {"network": "a network", "trees": "trees"}
_STREAMS = {"event": "visible at once", "commit": "visible after the commit", "spark": "with Spark"}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown, and where they were measured."""
    used: dict[str, dict[str, Any]] = {}
    lines = [_scored(found, used), _read(found, used)]
    lines += [_streamed(found, used, name, what) for name, what in _STREAMS.items()]
    lines += [_realtime(found, used, name, what) for name, what in _MODELS.items()]
    lines += [_cached(found, used, name, what) for name, what in _MODELS.items()]
    return "\n\n".join([markdown(HEADS, lines), *([f"Measured on {_places(used)}."] if used else [])])


def _places(used: dict[str, dict[str, Any]]) -> str:
    """Processors and commits, each with the sections that were measured there."""
    sections: dict[str, list[str]] = {}
    for name, section in used.items():
        first = machine.moments_of(section)[0]
        sections.setdefault(f"{first['processor']}, commit {first['commit']}", []).append(f"`{name}`")
    return "; ".join(f"{place}: {', '.join(names)}" for place, names in sections.items())


def _scored(found: dict[str, dict[str, Any]], used: dict[str, dict[str, Any]]) -> list[str]:
    command = '`make bench-scoring ARGS="--only arrow"`'
    section = found["scoring"].get("arrow")
    if section is None:
        return ["Batch, computing", _NONE, "", "", "", command]
    used["scoring arrow"] = section
    seconds = statistics.median(section["runs"][str(section["rows"])]["score"]["seconds"])
    cores = machine.moments_of(section)[0]["cores"]
    what = f"{section['rows']:,} rows scored, checked and committed at {number(section['rows'] / seconds)}/s"
    return ["Batch, computing", what, "", "", _core_hours(cores * seconds / section["rows"]), command]


def _read(found: dict[str, dict[str, Any]], used: dict[str, dict[str, Any]]) -> list[str]:
    command = '`make bench-store ARGS="--only http-one"`'
    section = found["store"].get("http-one")
    if section is None:
        return ["Batch, answering", _NONE, "", "", "", command]
    used["store http-one"] = section
    runs = [run for each in section["passes"] for run in each["surfaces"]["Forecache"]["one core"]]
    rate, p50, p99 = (statistics.median(run[name] for run in runs) for name in ("requests_per_s", "p50_ms", "p99_ms"))
    what = f"one key over HTTP, {number(rate)} requests/s of 16 clients on one core"
    return ["Batch, answering", what, number(p50), number(p99), _core_hours(1 / rate), command]


def _streamed(found: dict[str, dict[str, Any]], used: dict[str, dict[str, Any]], name: str, how: str) -> list[str]:
    command = f'`make bench-stream ARGS="--only {name}"`'
    section = found["stream"].get(name)
    if section is None:
        return [f"Near real time, {how}", _NONE, "", "", "", command]
    used[f"stream {name}"] = section
    run = section["run"]
    what = f"from an event to its answer over HTTP, {number(run['rate'])} events/s"
    hours = core_hours_a_million(run, ENGINE, TAILER)
    beside = {each: core_hours_a_million(run, each) for each in (BROKER, READER)}
    if hours is not None:
        what += f"; plus {', '.join(f'{each} {_told(cost)}' for each, cost in beside.items())}"
    cost = _NONE if hours is None else _told(hours)
    return [f"Near real time, {how}", what, number(run["p50_ms"]), number(run["p99_ms"]), cost, command]


def _realtime(found: dict[str, dict[str, Any]], used: dict[str, dict[str, Any]], name: str, model: str) -> list[str]:
    command = f'`make bench-realtime ARGS="--only {name}"`'
    section = found["realtime"].get(name)
    if section is None or not section["servers"][OURS]["runs"]:
        return [f"Real time, {model}", _NONE, "", "", "", command]
    used[f"realtime {name}"] = section
    ours = section["servers"][OURS]
    p50, p99 = (statistics.median(run[each] for run in ours["runs"]) for each in ("p50_ms", "p99_ms"))
    what = f"50 candidates ranked by looked-up features, {number(ours['rate'])} requests/s on one core"
    return [f"Real time, {model}", what, number(p50), number(p99), _core_hours(1 / ours["rate"]), command]


def _cached(found: dict[str, dict[str, Any]], used: dict[str, dict[str, Any]], name: str, model: str) -> list[str]:
    command, way = f'`make bench-realtime ARGS="--only {CACHED}"`', f"Real time, {model}, cached"
    section = found["realtime"].get(CACHED)
    if section is None:
        return [way, f"{_NONE} here: `forecache advise NAME` measures it with your requests", "", "", "", command]
    used[f"realtime {CACHED}"] = section
    ours, without = (section["models"][name][side] for side in ("with", "without"))
    p50, p99, cpu_us = (statistics.median(run[each] for run in ours) for each in ("p50_ms", "p99_ms", "cpu_us"))
    share = statistics.median(run["hit_rate"] for run in ours)
    plain = _core_hours(statistics.median(run["cpu_us"] for run in without) / 1e6)
    what = f"{number(section['rate'])} repeated requests/s, {share:.0%} from the cache (without it {plain} core-hours)"
    return [way, what, number(p50), number(p99), _core_hours(cpu_us / 1e6), command]


def _told(hours: float | None) -> str:
    return "not known" if hours is None else f"{hours:.2g}"


def _core_hours(core_s: float) -> str:
    return _told(core_s * 1e6 / 3600)
