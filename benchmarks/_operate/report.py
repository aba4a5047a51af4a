"""The tables of `make bench-operate`: what is printed and what benchmarks/results/tables.md shows."""

from typing import Any

import numpy as np
from _common.rows import Asked, Row, Value

SECTIONS = {
    "log": "Every answer logged against none, by turns in one reader: 50 candidates, 32 features, one core",
    "keeps-up": "The log under a steady load, until its rows are in the lake",
    "parity": "Logged answers computed again, offline, on two cores: 50 candidates, 32 features",
    "rollout": "Simulated rollouts of a release that is 2 percent worse, and of one that is the same",
}
_MILLION = 1_000_000
_PARITY_S = 300
_KEPT_LAG_S = 10
_NONE = Asked(0, at_least=False, of_ratio=False)


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    makers = {"log": _log_rows, "keeps-up": _keeping_rows, "parity": _parity_rows, "rollout": _rollout_rows}
    return makers[name](section)


def _log_rows(section: dict[str, Any]) -> list[Row]:
    without, with_log = section["sides"]["network"], section["sides"]["logged"]
    figures = (
        ("requests_per_s", "Requests per second, closed loop", "/s", Asked(0.95)),
        ("p99_ms", f"p99 at {section['paced_rate']:,.0f} requests/s", "ms", Asked(1.10, at_least=False)),
        ("generator_late_p99_ms", "p99 of the generator's own delay in these", "ms", None),
        ("p50_ms", f"p50 at {section['paced_rate']:,.0f} requests/s", "ms", None),
        ("cpu_us", "CPU time of a request, all of the reader's threads", "us", None),
    )
    rows = []
    for key, what, unit, asked in figures:
        ours, peers = ([run[key] for run in runs] for runs in (with_log, without))
        ratio = float(np.median([mine / other for mine, other in zip(ours, peers, strict=True)]))
        rows.append(Row(what, Value.of(ours), unit, "without a log", Value.of(peers), ratio, asked, key=key))
    failed = sum(run["failed"] for run in [*without, *with_log])
    return [
        *rows,
        Row(f"Answers that were not logged, of {section['accepted']:,.0f}", Value.of([section["lost"]]), asked=_NONE),
        Row("Requests without an answer of status 200", Value.of([failed]), asked=_NONE),
    ]


def _keeping_rows(section: dict[str, Any]) -> list[Row]:
    load, answered = section["load"], section["answered"]
    steady = f"{section['rate']:,.0f} requests/s for {section['seconds']:,.0f} s"
    twice = section["rows"] - section["distinct"]
    return [
        Row(f"Answers that are not in the table after {steady}", Value.of([answered - section["distinct"]]),
            asked=_NONE),
        Row("Answers that are in the table twice", Value.of([twice]), asked=_NONE),
        Row("Rows that were counted as lost", Value.of([section["lost"]]), asked=_NONE),
        Row("From an answer to its row in the table, newest of a commit", Value.of(section["lag_s"]), "s"),
        Row("The longest of these", Value.of([max(section["lag_s"])]), "s",
            asked=Asked(_KEPT_LAG_S, at_least=False, of_ratio=False, unit="s")),
        Row("Most that waited in the spool", Value.of([max(section["spool_bytes"]) / 1e6]), "MB"),
        Row("From the last answer until all rows were seen in the table", Value.of([section["last_s"]]), "s"),
        Row("p99 of the answers meanwhile", Value.of([load["p99_ms"]]), "ms"),
        Row("Answers with an item of a fallback than the model", Value.of([100 * load["lower_share"]]), "%"),
        Row("Requests without an answer of status 200", Value.of([load["failed"]]), asked=_NONE),
    ]  # fmt: skip


def _parity_rows(section: dict[str, Any]) -> list[Row]:
    requests, seconds = section["requests"], section["seconds"]
    in_time = Asked(_PARITY_S, at_least=False, of_ratio=False, unit="s") if requests >= _MILLION else None
    left_out = sum(section["not_recomputed"].values())
    return [
        Row(f"Parity of {requests:,} answers, from the command's start to its end", Value.of([seconds]), "s",
            asked=in_time),
        Row("Answers per second", Value.of([requests / seconds]), "/s"),
        Row("Answers that differ", Value.of([section["differ"]]), asked=_NONE),
        Row("Answers that could not be computed again", Value.of([left_out]), asked=_NONE),
        Row("Answers that were equal to the bit", Value.of([section["equal"]]),
            asked=Asked(requests, of_ratio=False)),
        Row("Values of features that were compared", Value.of([section["values"] / 1e6]), "million"),
        Row("Versions of stores that were held against the lake", Value.of([section["stores"].count("equal")]),
            asked=Asked(len(section["stores"]), of_ratio=False)),
        Row("Largest memory of all processes, without pages of files", Value.of([section["anonymous_bytes"] / 1e6]),
            "MB"),
    ]  # fmt: skip


def _rollout_rows(section: dict[str, Any]) -> list[Row]:
    at = section["requests"]
    rate, harm = section["traffic"]["rate"], section["harm"]
    stopped = 100 * (section["returned"] + section["paused"]) / section["equal"]
    of_worse = f"Of {section['rollouts']} rollouts, those that were returned"
    return [
        Row(f"Requests until it is returned, median; {rate:.0%} of requests convert, margin {harm:g}",
            Value.of([at["0.5"]])),
        Row("Requests until 9 of 10 rollouts are returned", Value.of([at["0.9"]])),
        Row(of_worse, Value.of([100 * section["found_share"]]), "%", asked=Asked(100, of_ratio=False, unit="%")),
        Row(f"{of_worse} without a margin", Value.of([100 * section["found_share_by_default"]]), "%"),
        Row(f"Of {section['equal']:,} rollouts of an equal release, those that were stopped", Value.of([stopped]),
            "%", asked=Asked(1, at_least=False, of_ratio=False, unit="%")),
        Row("Of these, those that waited at a step for 20 times its hours",
            Value.of([100 * section["held"] / section["equal"]]), "%"),
    ]  # fmt: skip
