"""Reads answers from the store in this process: `get`."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import NotFoundError
from forecache.cli.base import command, settings
from forecache.cli.commands.store import find_store
from forecache.cli.output import format_cell, format_duration, show, show_table
from forecache.cli.progress import StageProgress

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.store import Manifest


_MOST_COLUMNS = 8
"""Fields that are columns of the table; if there are more, they are its rows."""


@command(
    "get",
    examples="forecache get churn 00042\nforecache get churn 00042 00043 --version 17 --json\n"
    "forecache get recommended 1234 --limit 10",
)
@click.argument("pipeline", metavar="PIPELINE")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--version", type=int, help="A retained version; default: the served one.")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Most items of each list; default: all.")
def get(pipeline: str, keys: tuple[str, ...], version: int | None, limit: int | None) -> None:
    """Read the answers for KEYs from PIPELINE's store in this process, as the reader would give them.

    A composite key is its parts joined by `|`.
    """
    from forecache.serve.store import parse_key
    from forecache.serve.store.manifest import no_such_key_error

    with open_answers(settings(), pipeline, version) as answers:
        manifest = answers.manifest
        key_bytes = [parse_key(manifest.key, key) for key in keys]
        if len(keys) == 1:
            found = answers.one(key_bytes[0], (), limit or 0)
            if found is None:
                raise (
                    NotFoundError(answers.not_found_problem(keys[0]).detail)
                    if answers.layer
                    else no_such_key_error(manifest, keys[0])
                )
            answer = json.loads(found)
            results = [{"key": answer.pop("key"), "found": True, "value": answer.pop("value")}]
        else:
            found, _ = answers.many(key_bytes, (), limit or 0)
            answer = json.loads(found)
            results = answer.pop("results")
        show(
            {**results[0], **answer} if len(keys) == 1 else {"results": results, **answer},
            lambda: _show_answers(manifest, results, answer),
        )


@contextmanager
def open_answers(current: "Settings", name: str, version: int | None = None) -> "Iterator[VersionAnswers]":
    """Open the answers that the reader would serve now: the served version with the live layer above it.

    Args:
        version: A retained version, opened without the live layer; None: the served one.
    """
    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.reader.versions.live_answers import NoVersion, answers_of
    from forecache.serve.reader.versions.live_layers import LiveLayers
    from forecache.serve.store.push_pull import open_fetched_store

    find_store(current, name)
    with StageProgress() as progress:
        store = open_fetched_store(current, name, version, progress=progress.update)
    layers = LiveLayers()
    try:
        layer = layers.open_layer(store) if version is None else None
        if layer is not None and layer.serves_alone and store.pointer().serving is None:
            answers: VersionAnswers = answers_of(NoVersion(name, layer.declared), layer)
            answers.refresh(time.time())
            yield answers
            return
        with store.snapshot(version) as snapshot:
            answers = answers_of(snapshot, layer)
            answers.refresh(time.time())
            yield answers
    finally:
        layers.close()


def _show_answers(manifest: "Manifest", results: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    from forecache.serve.store.manifest import NUMERIC

    names = manifest.field_names
    some_live = any(item.get("source") == "live" for item in results)
    if len(names) > _MOST_COLUMNS:
        show_fields_as_rows(names, results, provenance_text(answer))
        return
    rows = [
        (
            item["key"],
            *(format_cell(item["value"].get(name)) if item["found"] else "no such key" for name in names),
            *([_live_source_text(item)] if some_live else []),
        )
        for item in results
    ]
    figures = [field.name for field in manifest.fields if field.type in NUMERIC]
    columns = (", ".join(manifest.key.names), *names, *(["from"] if some_live else []))
    show_table(columns, rows, right=figures, caption=provenance_text(answer))


def show_fields_as_rows(names: Sequence[str], results: list[dict[str, Any]], caption: str) -> None:
    """Print a row for each field, and a column for each key, some keys at a time: a terminal is not wide enough."""
    for first in range(0, len(results), _MOST_COLUMNS):
        items = results[first : first + _MOST_COLUMNS]
        keys = [item["key"] for item in items]
        rows = [
            (name, *(format_cell(item["value"].get(name)) if item["found"] else "no such key" for item in items))
            for name in names
        ]
        from_live = [_live_source_text(item) for item in items]
        rows += [("from", *from_live)] if any(from_live) else []
        show_table(("field", *keys), rows, right=keys, caption=caption)


def _live_source_text(item: dict[str, Any]) -> str:
    return provenance_text(item) if item.get("source") == "live" else ""


def provenance_text(answer: dict[str, Any]) -> str:
    """The provenance of an answer in one line."""
    if answer["source"] == "live":
        return _live_text(answer)
    said = [f"{answer['source']}: store version {answer['store_version']}"]
    if "model" in answer:
        said.append(f"model {answer['model']['name']} {answer['model']['version']}")
    said.append(f"as of {answer['as_of']}")
    if "scored_at" in answer:
        said.append(f"scored {answer['scored_at'][:19]}Z")
    text = ", ".join([*said, f"age {format_duration(answer['age_s'])}"])
    return text + (" (stale)" if answer["stale"] else "")


def _live_text(answer: dict[str, Any]) -> str:
    if "event_time" not in answer:
        return f"live: rows of the stream {answer['stream']}"
    if answer["event_time"] is None:
        said = (
            f"live: {answer['feature_version']} and no event since, as of {answer['as_of']}, age "
            f"{format_duration(answer['age_s'])}"
        )
        return said + (" (stale)" if answer["stale"] else "")
    position = answer["position"]
    where = "pending, in no commit yet" if position is None else f"position {position}"
    return f"live: {where}, event at {answer['event_time'][:19]}Z, age {format_duration(answer['age_s'])}"
