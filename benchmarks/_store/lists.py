"""Reading lists over HTTP beside a text of as many bytes: `cd benchmarks && python -m _store.lists [tiny|full]`.

Three pipelines of one home, published from Delta: lists of 50 structures, their first 10, and for each key a text whose
answer has exactly as many bytes as that of its first 10. One reader answers all, held to one core.
"""

import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from _common.processes import cpu_s, with_children
from _common.rows import HEADS_WITH_ASKED, Asked, Row, Value, text_table
from deltalake import write_deltalake

from _store import rows, servers
from _store.answers import ask
from _store.load import Target, run_load
from _store.processes import ROOT, SERVER_CORE, BenchmarkError, free_port
from _store.progress import say
from _store.sizes import SIZES, Sizes
from forecache.base.settings import load_settings
from forecache.declare import Pipeline, Publish, Segment
from forecache.serve.store import open_store
from forecache.serve.store.encoding.column_values import json_texts
from forecache.serve.store.publishing.publish import publish

FLOOR = 0.8
"""Of the text's requests per second."""
STORED, ASKED = 50, 10
TEXT = "a text of as many bytes"
TARGETS = {
    TEXT: ("text", ""),
    f"a list of {ASKED}": ("first", ""),
    f"a list of {STORED}, limit={ASKED}": ("items", f"?limit={ASKED}"),
    f"a list of {STORED}, whole": ("items", ""),
}
"""Surfaces by name: the pipeline, and the query behind the key."""
_MOST_KEYS = 100_000
_ROUNDS, _ROUND_S = 8, 1.0
"""Rounds for each repeat of the chosen size, and the seconds of each surface in one."""
_FIELD = "items"
_ITEM = pa.struct([("item", pa.string()), ("score", pa.float64()), ("reason", pa.string())])


def measure(work: Path, sizes: Sizes, number: int) -> dict[str, Any]:
    """One pass: short rounds in which every surface is put under load, so that what else the machine does meets all.

    A round also has the processor time that the reader took for each request, which others' load hardly touches.
    """
    home, num_keys, port = work / "lists", min(sizes.http_keys, _MOST_KEYS), free_port()
    publish_lists(home, num_keys)
    surfaces: dict[str, Any] = {name: {"one core": []} for name in TARGETS}
    with servers.reader(home)(port, SERVER_CORE) as pid:
        reader = psutil.Process(pid)
        targets = {
            name: Target(port, "get", f"/v1/{pipeline}/", suffix=suffix) for name, (pipeline, suffix) in TARGETS.items()
        }
        for name, target in targets.items():
            surfaces[name]["content"] = _check(target, name, num_keys)
        say(f"pass {number}: lists")
        for repeat in range(_ROUNDS * sizes.repeats + 1):
            for name, target in targets.items():
                before = cpu_s(with_children(reader))
                load = run_load(
                    target, "one", num_keys=num_keys, seconds=_ROUND_S, seed=100 * number + repeat, one_core=True
                )
                if repeat:  # the first round warms up
                    cpu_us = 1e6 * (cpu_s(with_children(reader)) - before) / load.requests
                    surfaces[name]["one core"].append({**asdict(load), "cpu_us": cpu_us})
    return {"surfaces": surfaces, "keys": num_keys}


def table_rows(passes: list[dict[str, Any]]) -> list[Row]:
    """Every list beside the text: the ratio is the median over the rounds, and is asked of the first ten."""
    rounds = {name: [load for each in passes for load in each["surfaces"][name]["one core"]] for name in TARGETS}
    found = []
    for name in [name for name in TARGETS if name != TEXT]:
        for member, what, unit in (("requests_per_s", "requests per second", "/s"), ("cpu_us", "processor time", "us")):
            ours, theirs = ([load[member] for load in rounds[each]] for each in (name, TEXT))
            ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            # "How many times better" is meant: of a time the smaller is the better.
            ratio = statistics.median(ratios if unit == "/s" else [1 / each for each in ratios])
            asked = Asked(FLOOR) if unit == "/s" and not name.endswith("whole") else None
            found.append(Row(f"{name}: {what}", Value.of(ours), unit, TEXT, Value.of(theirs), ratio, asked))
    return found


def lists(index: np.ndarray, length: int) -> pa.Array:
    """`length` items with falling scores for every key; every third has no reason."""
    count = len(index) * length
    places = np.tile(np.arange(length), len(index))
    numbers = (np.repeat(index, length) * 131 + places * 7919) % 20_000
    scores = (1.0 - places / 64) * (1 - np.repeat(index, length) / 2**21)
    items = pc.binary_join_element_wise("P", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 7, "0"), "")
    reasons = pc.if_else(pa.array(places % 3 == 0), pa.scalar(None, pa.string()), "often bought together")
    structs = pa.StructArray.from_arrays([items, pa.array(scores), reasons], fields=list(_ITEM))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, count + 1, length, dtype=np.int32)), structs)


def column(pipeline: str, index: np.ndarray) -> pa.Array:
    """What a pipeline serves for these keys."""
    first = lists(index, STORED if pipeline == "items" else ASKED)
    if pipeline != "text":
        return first
    lengths = pc.binary_length(json_texts(first, f"array<{_ITEM}>"))
    return pc.binary_repeat(pa.repeat("x", len(index)), pc.subtract(lengths, len('""')))


def _declared(name: str) -> Pipeline:
    cut = Segment(_FIELD, of=rows.FIELDS[0], bounds=(0.5,), labels=("low", "high"))
    return replace(
        rows.pipeline(), name=name, segments=(cut,), publish=Publish(fields=(_FIELD,), max_age_h=24 * 365 * 10)
    )


def publish_lists(home: Path, num_keys: int) -> None:
    """Publish the three pipelines where they are not published yet."""
    settings = load_settings(home=home)
    for name in ("text", "first", "items"):
        current = open_store(settings, name).current()
        if current is not None and current.rows == num_keys:
            continue
        say(f"publishing {num_keys:,} keys of {name}")
        index = np.arange(num_keys)
        table = rows.table(index, np.zeros(num_keys, np.uint16), rows.FIRST_NIGHT).drop_columns(list(rows.FIELDS[1:]))
        table = table.append_column(_FIELD, column(name, index))
        declared = _declared(name)
        write_deltalake(
            settings.table_uri(declared.prediction_table), table, partition_by=["as_of"], mode="overwrite",
            configuration={"delta.enableChangeDataFeed": "true"},
        )  # fmt: skip
        publish(settings, declared, full=True)


def _check(target: Target, name: str, num_keys: int) -> dict[str, float]:
    """Refuse to measure what does not answer as the table has it; the bytes of an answer."""
    key = num_keys // 2
    body, whole = ask(target, [rows.key_text(key)])
    value = orjson.loads(body)["value"][_FIELD]
    wanted = lists(np.array([key]), STORED if name.endswith("whole") else ASKED).to_pylist()[0]
    if name == TEXT:
        wanted = "x" * (len(json_texts(lists(np.array([key]), ASKED), f"array<{_ITEM}>")[0].as_py()) - 2)
    if value != wanted:
        raise BenchmarkError(f"{name} answers {value} where the table has {wanted}.")
    return {"body_bytes": len(body), "answer_bytes": whole}


if __name__ == "__main__":
    chosen = SIZES[sys.argv[1] if len(sys.argv) > 1 else "full"]
    found = measure(ROOT / ".forecache" / "bench-store" / chosen.name, chosen, 1)
    for surface, record in found["surfaces"].items():
        print(f"{surface}: {record['content']}, failed: {sum(load['failed'] for load in record['one core'])}")
    print(text_table(HEADS_WITH_ASKED, [row.cells_with_asked() for row in table_rows([found])]))
