"""The tables of `make bench-stream`: what is printed and what benchmarks/results/tables.md shows."""

import importlib
from collections.abc import Callable
from typing import Any

from _common.rows import Asked, Row, Value

from _stream.processor import PROCESSES, core_hours_a_million
from _stream.same_features import total

FRESHNESS = {
    "event": "From an event to its answer: engine `arrow`, visible at the event",
    "commit": "From an event to its answer: engine `arrow`, visible after the commit",
    "spark": "From an event to its answer: engine `spark`",
}
SECTIONS = {
    **FRESHNESS,
    "rewind": "Publishes, kills and a rollback while updates stream: nothing lost, nothing turned back",
    "once": "Broker, engine and tailer killed, messages doubled, spoilt, in another schema: each event once",
    "fraud": "Card fraud in the stream, under the protocol of the Fraud Detection Handbook; one partition, in order",
    "live-cost": "What a live layer that nobody writes to meanwhile costs reads",
}
_LIMITS_MS = {"event": (20, 150), "commit": (None, 2_000), "spark": (2_000, 5_000)}
"""By section, the p50 and the p99 that are asked for."""
_ELSEWHERE = {"fraud": "fraud", "live-cost": "live_cost"}
_NONE = Asked(0, at_least=False, of_ratio=False)
_SWAP_MS = 10


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    if name in FRESHNESS:
        return _freshness_rows(name, section)
    if name in _ELSEWHERE:
        rows: list[Row] = importlib.import_module(f"_stream.{_ELSEWHERE[name]}").rows_of(section)
        return rows
    makers: dict[str, Callable[[dict[str, Any]], list[Row]]] = {"rewind": _rewind_rows, "once": _once_rows}
    return makers[name](section)


def _at_most(limit: float | None, unit: str) -> Asked | None:
    return None if limit is None else Asked(limit, at_least=False, of_ratio=False, unit=unit)


def _equal(count: int) -> Asked:
    return Asked(count, of_ratio=False)


def _freshness_rows(name: str, section: dict[str, Any]) -> list[Row]:
    run = section["run"]
    p50, p99 = _LIMITS_MS[name]
    steady = f"{run['rate']:,.0f} events/s for {run['seconds']:,.0f} s"
    rows = [
        Row(f"From an event to its answer over HTTP, p50 at {steady}", Value.of([run["p50_ms"]]), "ms",
            asked=_at_most(p50, "ms"), key="p50"),
        Row(f"The same, p99, of {run['sampled']:,} events that were asked for", Value.of([run["p99_ms"]]), "ms",
            asked=_at_most(p99, "ms"), key="p99"),
        Row("The same, the longest", Value.of([run["max_ms"]]), "ms"),
        Row("p99 of the generator's own delay in these", Value.of([run["generator_late_p99_ms"]]), "ms"),
        Row("Events asked for that were not answered", Value.of([run["failed"]]), asked=_NONE),
        Row(f"Events that are not in the table, of {section['sent']:,}",
            Value.of([section["sent"] - section["distinct"]]), asked=_NONE),
        Row("Events that are in the table twice", Value.of([section["rows"] - section["distinct"]]), asked=_NONE),
        *_processor_rows(run),
    ]  # fmt: skip
    if section["tried"]:
        runs = f"runs of {section['tried'][-1]['seconds']:,.0f} s"
        bound = f"a p99 under {section['bound_ms'] / 1e3:g} s"
        rows.append(
            Row(f"The highest rate of {runs} whose second half has {bound}", Value.of([section["highest_rate"]]),
                "/s", key="highest")
        )  # fmt: skip
    return rows


def _processor_rows(run: dict[str, Any]) -> list[Row]:
    """What each process took of the processor; a run of before it was measured has none."""
    hours = {title: core_hours_a_million(run, name) for name, title in PROCESSES.items()}
    return [
        Row(f"Core-hours of a million events: {title}", Value.of([each]), key=title)
        for title, each in hours.items()
        if each is not None
    ]


def _kills(section: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in section["kills"].items())


def _ended_by_themselves(count: int) -> Row:
    return Row("Ends of engine or tailer that were no kills", Value.of([count]), asked=_NONE)


def _rewind_rows(section: dict[str, Any]) -> list[Row]:
    watched, content, table = section["watched"], section["content"], section["table"]
    publish_s = [each["ended"] - each["started"] for each in section["publishes"]]
    behind = "Age of the oldest payment that an answer did not have yet, 0 where it had all"
    return [
        Row(f"Kills ({_kills(section)})", Value.of([sum(section["kills"].values())])),
        Row(f"Publishes of a hundredth of {section['keys']:,} keys and of what was streamed",
            Value.of([len(section["publishes"])])),
        Row("A publish that was not killed, from its start to its end", Value.of(publish_s), "s"),
        Row("Answers that were checked meanwhile", Value.of([watched["answers"]])),
        Row("Answers in which a key went back", Value.of([watched["back"]]), asked=_NONE),
        Row("Answers with payments that are not the key's first ones", Value.of([watched["wrong"]]), asked=_NONE),
        Row("Requests without an answer of status 200", Value.of([watched["problems"]]), asked=_NONE),
        *_swap_rows(section),
        Row("p99 of the checking client's requests of 50 keys", Value.of([watched["latency_p99_ms"]]), "ms"),
        Row(f"{behind}, median", Value.of([watched["behind_p50_s"]]), "s"),
        Row(f"{behind}, p99", Value.of([watched["behind_p99_s"]]), "s"),
        Row(f"{behind}, the longest, with the kills", Value.of([watched["behind_max_s"]]), "s"),
        Row(f"Updates that are not in the table, of {table['sent']:,}", Value.of([table["sent"] - table["distinct"]]),
            asked=_NONE),
        Row("Updates that are in the table twice", Value.of([table["rows"] - table["distinct"]]), asked=_NONE),
        # The published run did not count them yet.
        *([_ended_by_themselves(section["ended_by_themselves"])] if "ended_by_themselves" in section else []),
        Row(f"Of {content['with_payments'] + content['without']:,} keys at the end, those with a wrong answer",
            Value.of([content["wrong"]]), asked=_NONE),
        Row("From the last answer until the whole live layer was verified against the table",
            Value.of([section["verified_s"]]), "s"),
    ]  # fmt: skip


def _swap_rows(section: dict[str, Any]) -> list[Row]:
    """How long versions are opened beside the requests, and what the requests see of it."""
    swap_ms, held_ms = section["swap_ms"], section.get("held_ms")
    # The published run had the reader's own start among them, and did not look at requests.
    of = f"{len(swap_ms)} seen of {section['swaps']}" if held_ms is None else f"beside its requests, {len(swap_ms)}"
    rows = [
        Row(f"Opening and warming a version in the reader, {of}", Value.of(swap_ms), "ms"),
        Row("The longest of these", Value.of([max(swap_ms)]), "ms", asked=_at_most(_SWAP_MS, "ms")),
    ]
    if held_ms:
        rows += [
            Row("The longest request of 50 keys during each", Value.of(held_ms), "ms"),
            Row("The longest of these", Value.of([max(held_ms)]), "ms"),
        ]
    if beside_ms := section.get("beside_ms"):
        rows += [
            Row("The same for as long 1 and 2 s before and after, when no version came", Value.of(beside_ms), "ms"),
            Row("The longest of these", Value.of([max(beside_ms)]), "ms"),
        ]
    return rows


def _once_rows(section: dict[str, Any]) -> list[Row]:
    rows, sent, said = section["rows"], section["sent"], section["recomputed"]["said"]
    is_equal = said["difference"] is None
    return [
        Row(f"Kills ({_kills(section)})", Value.of([sum(section["kills"].values())])),
        Row("Events sent", Value.of([sent["event"]])),
        Row("Distinct events in the table", Value.of([rows["distinct"]]), asked=_equal(sent["event"])),
        Row(f"Rows of events that are there twice, of which {sent['repeat']:,} were sent twice",
            Value.of([rows["rows"] - rows["distinct"] - rows["foreign"]]), asked=_NONE),
        Row("Rows that nobody sent", Value.of([rows["foreign"]]), asked=_NONE),
        Row("Rows that differ from what was sent", Value.of([rows["differ"]]), asked=_NONE),
        Row("Rows without a score", Value.of([rows["without_score"]]), asked=_NONE),
        _ended_by_themselves(section["ended_by_themselves"]),
        Row("Messages in quarantine", Value.of([section["quarantine"]["distinct"]])),
        Row(f"These, more or fewer than the {sent['poison']:,} that were no events",
            Value.of([abs(section["quarantine"]["distinct"] - sent["poison"])]), asked=_NONE),
        Row("Messages that are in quarantine twice",
            Value.of([section["quarantine"]["rows"] - section["quarantine"]["distinct"]]), asked=_NONE),
        Row(f"Of {section['live']['asked']:,} answers of the reader, those that are not the row's",
            Value.of([section["live"]["wrong"]]), asked=_NONE),
        Row("Rows that were computed again from the table and compared, every bit", Value.of([said["compared"]]),
            asked=_equal(sent["event"])),
        Row("Whether one of them differed", Value.of([0 if is_equal else 1]), asked=_NONE),
        *_plain_rows(section),
        Row("The recomputation, from the command's start to its end", Value.of([section["recomputed"]["seconds"]]),
            "s"),
        Row("From the last message and the last kill until all was in the table", Value.of([section["caught_up_s"]]),
            "s"),
    ]  # fmt: skip


def _plain_rows(section: dict[str, Any]) -> list[Row]:
    """Features and scores against those that other code computes of what was sent."""
    found = section.get("plain")
    if found is None:  # in results from before they were compared
        return []
    unlike = sum(total(found, kind) for kind in ("differ", "missing", "extra"))
    return [
        Row(f"Events whose {len(found['features'])} features other code counted from what was sent, and compared",
            Value.of([found["compared"]]), asked=_equal(section["sent"]["event"])),
        Row("Features of these that the stream scored with, and that differ in a bit", Value.of([unlike]), asked=_NONE),
        Row("Scores of these that are not the network's, by its runtime alone", Value.of([found["scores_differ"]]),
            asked=_NONE),
    ]  # fmt: skip
