"""The tables of `make bench-realtime`: what is printed and what benchmarks/results/tables.md shows."""

from statistics import fmean, median
from typing import Any

import numpy as np
from _common.rows import Asked, Row, Value

from _realtime import bento_rows, cached_rows, case
from _realtime.best_rate import LIMITS, OURS

BENTO, CACHED = "bento", "cached"
WITHOUT_PEERS = (BENTO, CACHED, "overload", "swap")
"""Sections that need nothing of what `prepare` installs and loads for peers."""
SECTIONS = {
    "network": f"Ranking 50 candidates by 32 looked-up features with {case.MODEL_TITLES[case.NETWORK]}, one core",
    "trees": f"The same with {case.MODEL_TITLES[case.TREES]}",
    BENTO: "The same release in the reader and in BentoML, on one core",
    CACHED: "Both with a cache of their answers and without, for requests that repeat, in one reader on one core",
    "overload": "More requests than a worker holds, with a deadline of 50 ms",
    "faults": "A model that sleeps, spins, crashes or is stopped, with a deadline of 50 ms",
    "swap": "Publishes of features and swaps of the model under load",
    "balancers": "A kill of one of three replicas behind a load balancer",
    "lookup": "Features of 50 keys as a matrix, in process",
    "plain": "Reads of one key beside the last commit without real-time models",
}
_LEAST = {"network": 3_000, "trees": 2_000}
_TIMES_THE_BEST = 8.0
_MOST_RATIO, _MOST_MORE_MS = 1.1, 2.0
"""Publishes and releases may make the slowest answers so much slower."""
FAULTS = {
    "sleep": "that sleeps 40 ms", "spin": "that spins for ever", "crash": "that crashes",
    "stop": "that stops its process (SIGSTOP)",
}  # fmt: skip
_FEAST_NAME, _REDIS_NAME = "Feast's SDK on Redis", "Redis MGET with hiredis"


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    makers = {
        "network": _rate_rows, "trees": _rate_rows, BENTO: bento_rows.rows_of, CACHED: cached_rows.rows_of,
        "overload": _overload_rows, "faults": _fault_rows, "swap": _swap_rows, "balancers": _balancer_rows,
        "lookup": _lookup_rows, "plain": _plain_rows,
    }  # fmt: skip
    return makers[name](name, section)


def _rate(server: dict[str, Any]) -> float:
    return float(server["rate"])


def _rate_rows(name: str, section: dict[str, Any]) -> list[Row]:
    ours = section["servers"][OURS]
    limits = f"p99 under {LIMITS.p99_ms:g} ms"
    rows = [
        Row(
            f"Requests per second at {limits} and p99.9 under {LIMITS.p999_ms:g} ms", Value.of([_rate(ours)]), "/s",
            asked=Asked(_LEAST[name], of_ratio=False, unit="/s"),
        )
    ]  # fmt: skip
    if ours["runs"]:
        for quantile, title in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
            rows.append(Row(f"{title} at that rate", Value.of(run[quantile] for run in ours["runs"]), "ms"))
        lower = Value.of(100 * run["lower_share"] for run in ours["runs"])
        rows.append(Row("Answers at that rate with an item of a fallback than the model", lower, "%"))
    if not section.get("in_loop", True):
        rows.append(Row("The model ran in a process of its own, as its calibration found it slow", Value.of([1])))
    if "scattered" in section:
        rate = Value.of([_rate(section["scattered"])])
        rows.append(Row("The same with candidates at random among all products (short runs)", rate, "/s"))
    for stage, values in ours.get("timings_ms", {}).items():
        rows.append(Row(f"Time of one request alone, {stage}", Value.of([float(np.median(values))]), "ms"))
    peers = {name: server for name, server in section["servers"].items() if name != OURS}
    at_limit = {name: _rate(server) for name, server in peers.items() if server["p99_limit_ms"] == LIMITS.p99_ms}
    best = max(at_limit, key=lambda name: at_limit[name], default="")
    for peer, server in peers.items():
        rate, limit = _rate(server), server["p99_limit_ms"]
        what = f"Requests per second at {limits}"
        if not rate:
            rows.append(Row(what, Value.of([_rate(ours)]), "/s", f"{peer}: at no rate a p99 under {limit:g} ms"))
            continue
        note = "" if limit == LIMITS.p99_ms else f", at p99 under {limit:g} ms"
        note += "" if server["runs"] else " (short runs)"
        asked = Asked(_TIMES_THE_BEST) if peer == best else None
        theirs = Value.of([rate])
        rows.append(
            Row(what, Value.of([_rate(ours)]), "/s", f"{peer}{note}", theirs, _rate(ours) / rate, asked, key=peer)
        )
    high = section["ceiling"][-1]
    rows.append(
        Row(
            f"The load generator alone, against a server that answers at once, at {high['rate']:,.0f}/s: p99",
            Value.of([high["p99_ms"]]), "ms",
        )
    )  # fmt: skip
    return rows


_GOODPUT = {"5": 70.0, "10": 50.0}
"""Percent of the best rate that the model's answers keep, by how many times as many are asked."""


def _overload_rows(_: str, section: dict[str, Any]) -> list[Row]:
    best = section["best_rate"]
    rows = [Row("Best rate of the model path", Value.of([best]), "/s")]
    held = section["held"]
    if held:
        what = f"Most requests per second of which 999 in 1,000 are answered within {section['within_ms']:g} ms"
        rows += [
            Row(what, Value.of([held["rate"]]), "/s"),
            Row("At that rate: answers wholly by the model, in time", Value.of([held["model_per_s"]]), "/s"),
            Row("At that rate: the slowest answer", Value.of([held["max_ms"]]), "ms"),
            *(Row(f"At that rate: items by {answered_by}", Value.of([100 * share]), "%")
              for answered_by, share in held["answered_by"].items()),
        ]  # fmt: skip
    for factor, run in section["factors"].items():
        at = f"{run['rate']:,.0f}/s, {factor} times the best rate" if factor != "1" else f"{run['rate']:,.0f}/s"
        rows += _refusal_rows(at, run)
        rows.append(Row(f"{at}: p99", Value.of([run["p99_ms"]]), "ms"))
        rows.append(
            Row(
                f"{at}: answers wholly by the model, within {section['within_ms']:g} ms",
                Value.of([100 * run["model_per_s"] / best]),
                "% of the best rate",
                asked=Asked(_GOODPUT[factor], of_ratio=False, unit="%") if factor in _GOODPUT else None,
            )
        )  # fmt: skip
        for answered_by, share in run["answered_by"].items():
            rows.append(Row(f"{at}: items by {answered_by}", Value.of([100 * share]), "%"))
    if "values" in section:
        run = section["values"]
        at = f"{run['rate']:,.0f} reads of one key a second, twice the best rate"
        share = Value.of([100 * run["in_time_per_s"] / run["best_rate"]])
        rows += [
            *_refusal_rows(at, run),
            Row(f"{at}: answers within {section['within_ms']:g} ms", share, "% of the best rate"),
        ]
    for alone in section.get("ceiling", ()):
        what = f"The load generator alone, against a server that answers at once, at {alone['rate']:,.0f}/s: p99"
        rows.append(Row(what, Value.of([alone["p99_ms"]]), "ms"))
    return rows


def _refusal_rows(at: str, run: dict[str, Any]) -> list[Row]:
    none = Asked(0, at_least=False, of_ratio=False)
    refused, answered = (run["statuses"].get(status, 0) for status in ("429", "200"))
    return [
        Row(f"{at}: requests refused (429)", Value.of([refused])),
        Row(f"{at}: requests accepted and answered late", Value.of([run["late"]]), asked=none),
        Row(
            f"{at}: requests neither answered nor refused", Value.of([run["requests"] - refused - answered]), asked=none
        ),
    ]


def _fault_rows(_: str, section: dict[str, Any]) -> list[Row]:
    rows = []
    deadline = section["deadline_ms"]
    for kind, run in section["kinds"].items():
        what = f"A model {FAULTS[kind]}"
        late = Asked(deadline, at_least=False, of_ratio=False, unit="ms")
        none = Asked(0, at_least=False, of_ratio=False)
        soon = Asked(1.0, at_least=False, of_ratio=False, unit="s")
        rows += [
            Row(f"{what}: the slowest answer", Value.of([run["max_ms"]]), "ms", asked=late),
            Row(f"{what}: p99", Value.of([run["p99_ms"]]), "ms"),
            Row(f"{what}: requests without an answer of status 200", Value.of([run["failed"]]), asked=none),
            Row(
                f"{what}: the model answers again after{'' if run['is_back'] else ' more than'}",
                Value.of([run["back_s"]]),
                "s",
                asked=soon,
            ),
        ]
        for phase, share in run["model_share"].items():
            rows.append(Row(f"{what}: answers by the model, {phase} the fault", Value.of([100 * share]), "%"))
    return rows


def _swap_rows(_: str, section: dict[str, Any]) -> list[Row]:
    rounds, checked = section["rounds"], section["checked"]
    changes = [each for run in rounds for each in run["changes"]]
    kinds = {
        kind: [each for each in changes if each["what"] == kind and each["under_load"]] for kind in ("publish", "swap")
    }
    none = Asked(0, at_least=False, of_ratio=False)
    counted = f"{len(kinds['publish'])} publishes and {len(kinds['swap'])} swaps"
    rows = [Row(f"Requests without an answer of status 200, {counted}",
                Value.of([sum(run["during"]["failed"] for run in rounds)]), asked=none)]  # fmt: skip
    for what, name in (("p99", "p99_ms"), ("p99.9", "p999_ms"), ("The slowest answer", "max_ms")):
        during = [run["during"][name] for run in rounds]
        # The slowest of a run that is as long as the one with changes.
        quiet = [(max if name == "max_ms" else fmean)((run["before"][name], run["after"][name])) for run in rounds]
        ratio = median(mine / other for mine, other in zip(during, quiet, strict=True))
        rows.append(Row(f"{what} with them (ratio: median of rounds)", Value.of(during), "ms", "without",
                        Value.of(quiet), ratio, Asked(2.0, at_least=False) if name == "p99_ms" else None))  # fmt: skip
        if name != "p99_ms":
            above = [mine - _MOST_RATIO * other for mine, other in zip(during, quiet, strict=True)]
            limit = Asked(_MOST_MORE_MS, at_least=False, of_ratio=False, unit="ms")
            rows.append(Row(f"{what}, above {_MOST_RATIO:g} times that without (median of rounds)",
                            Value.of([median(above)]), "ms", asked=limit))  # fmt: skip
    return [
        *rows,
        Row("Answers by the model with them", Value.of(100 * run["during"]["model_share"] for run in rounds), "%"),
        Row(f"Wrong answers, of {checked['answers']} that were compared", Value.of([checked["wrong"]]), asked=none),
        Row("Publishes and swaps that began and ended under the load", Value.of([sum(map(len, kinds.values()))]),
            asked=Asked(len(changes), of_ratio=False)),
        Row("Versions of the features, and releases, seen in them",
            Value.of([checked["versions"] + checked["releases"]])),
        Row("A publish", _took(kinds["publish"]), "s"),
        Row("A release of another model", _took(kinds["swap"]), "s"),
    ]  # fmt: skip


def _took(changes: list[dict[str, Any]]) -> Value:
    return Value.of([each["ended"] - each["started"] for each in changes] or [0.0])


def _balancer_rows(_: str, section: dict[str, Any]) -> list[Row]:
    rows = []
    for name, run in section["balancers"].items():
        at = f"{name}, {section['rate']:,}/s"
        none = Asked(0, at_least=False, of_ratio=False)
        rows += [
            Row(f"{at}: requests without an answer of status 200, with a kill", Value.of([run["kill"]["failed"]]),
                asked=none),
            Row(f"{at}: p99 with a kill", Value.of([run["kill"]["p99_ms"]]), "ms", "without",
                Value.of([run["before"]["p99_ms"]])),
            Row(f"{at}: the slowest answer with a kill", Value.of([run["kill"]["max_ms"]]), "ms", "without",
                Value.of([run["before"]["max_ms"]])),
            Row(f"{at}: answers by the model, with a kill", Value.of([100 * run["model_share"]]), "%"),
        ]  # fmt: skip
    return rows


def _lookup_rows(_: str, section: dict[str, Any]) -> list[Row]:
    microseconds = {name: np.array(values) / 1e3 for name, values in section["nanoseconds"].items()}
    titles = {
        "redis": f"{_REDIS_NAME}, {section['keys']:,} keys",
        "feast": f"{_FEAST_NAME}, {section['feast_keys']:,} keys",
    }
    rows = []
    for quantile, title in ((0.5, "median"), (0.99, "p99")):
        ours = float(np.quantile(microseconds["ours"], quantile))
        for peer, named in titles.items():
            theirs = float(np.quantile(microseconds[peer], quantile))
            first = quantile == 0.5 and peer == "redis"
            asked = Asked(60, at_least=False, of_ratio=False, unit="us") if first else None
            what = f"50 of {section['keys']:,} keys, {section['features']} features, {title}"
            rows.append(Row(what, Value.of([ours]), "us", named, Value.of([theirs]), theirs / ours, asked))
    return rows


def _plain_rows(_: str, section: dict[str, Any]) -> list[Row]:
    sides = section["sides"]
    rows = []
    for name, what, unit, at_least, limit in (
        ("requests_per_s", "Requests per second", "/s", True, 0.97),
        ("cpu_us", "CPU time of a request", "us", False, 1.03),
    ):
        values = {side: [each[name] for each in runs] for side, runs in sides.items()}
        ratios = [after / before for before, after in zip(values["before"], values["after"], strict=True)]
        rows.append(
            Row(
                what, Value.of(values["after"]), unit, f"before ({section['before_commit']})",
                Value.of(values["before"]),
                float(np.median(ratios)), Asked(limit, at_least=at_least),
            )
        )  # fmt: skip
    p99 = {side: Value.of(each["p99_ms"] for each in runs) for side, runs in sides.items()}
    rows.append(Row("p99", p99["after"], "ms", f"before ({section['before_commit']})", p99["before"]))
    return rows
