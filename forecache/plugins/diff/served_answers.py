"""The answers that two environments would serve now for the same keys, as the reader gives them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from forecache.base.environments import LOCAL
from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.cli.commands.get import open_answers
from forecache.declare.project import Project
from forecache.declare.realtime.realtime import stored_values_of
from forecache.kit.delta.tables import table_exists
from forecache.lake.query import bounded_database, quote_name
from forecache.plugins.diff.partition import Partition
from forecache.realtime.log.read import read_newest
from forecache.realtime.log.record import table_of
from forecache.serve.store.keys import escape_part

KEYS = 1_000
_AT_ONCE, _MOST_SHOWN = 500, 5
_MOST_REQUESTS = 5_000


def compare_served(
    before: Settings, after: Settings, name: str, key: Sequence[str], partition: Partition, project: Project
) -> dict[str, Any]:
    """Look the same keys up in the served versions of both environments, and compare the bytes of their values.

    The keys are those of logged requests of real-time models that read this store, or else a sample of the partition's
    keys by hash. Returns JSON values: `sentence`, `keys_from`, `keys`, `same`, `other` (another value), `only_before`,
    `only_after`, `neither`, and `examples`.
    """
    keys, origin = requested_keys(before, name, project)
    if not keys:
        keys, origin = _sampled_keys(partition, key), "a random sample of the keys by hash"
    sides = []
    for settings in (before, after):
        try:
            sides.append(_look_up(settings, name, keys))
        except ForecacheError as error:
            where = settings.env or LOCAL
            return {"sentence": f"Served answers were not compared: {where}: {error}", "keys": 0}
    (old, old_version), (new, new_version) = sides
    found = {"same": 0, "other": 0, "only_before": 0, "only_after": 0, "neither": 0}
    examples: list[dict[str, Any]] = []
    for one, ours, theirs in zip(keys, old, new, strict=True):
        kind = "same" if ours == theirs else "other"
        if ours is None or theirs is None:
            kind = "neither" if ours is theirs else "only_before" if theirs is None else "only_after"
        found[kind] += 1
        if kind not in ("same", "neither") and len(examples) < _MOST_SHOWN:
            examples.append({"key": one, "before": ours, "after": theirs})
    changed = len(keys) - found["same"] - found["neither"]
    sentence = (
        f"Served of {name} for {len(keys):,} keys ({origin}): {changed:,} answers change, {found['same']:,} are equal "
        f"to the byte (version {old_version} -> {new_version})."
    )
    return {"sentence": sentence, "keys_from": origin, "keys": len(keys), **found, "examples": examples}


def requested_keys(settings: Settings, name: str, project: Project) -> tuple[list[str], str]:
    """Keys by which logged requests read a store, as texts, the newest requests first; and where they come from."""
    found: dict[str, None] = {}
    models = []
    for model in project.realtime.values():
        fields = [each.by for each in model.lookups if each.view.name == name]
        fields += [each.key for each in stored_values_of(model.fallbacks) if each.store == name]
        if not fields or not table_exists(settings, table_of(model.name)):
            continue
        before = len(found)
        for request in _read_requests(settings, model.name):
            for by in fields:
                found.update(dict.fromkeys(_keys_in(request, by)))
            if len(found) >= KEYS:
                break
        models += [model.name] if len(found) > before else []
    return list(found)[:KEYS], f"those of logged requests of {', '.join(models)}" if models else ""


def _read_requests(settings: Settings, model: str) -> list[Any]:
    """The newest logged requests, parsed, the newest first."""
    parsed = []
    for row in reversed(read_newest(settings, model, rows=_MOST_REQUESTS, columns=["request"])):
        try:
            parsed.append(orjson.loads(row["request"]))
        except orjson.JSONDecodeError:  # logged as it arrived
            continue
    return parsed


def _keys_in(request: Any, by: Sequence[str]) -> list[str]:
    """The keys of a request: of its own fields, or of each candidate's with the request's for what it lacks."""
    if not isinstance(request, dict):
        return []
    lists = [each for each in request.values() if isinstance(each, list)]
    rows = [request, *({**request, **row} for some in lists for row in some if isinstance(row, dict))]
    fitting = ([row.get(name) for name in by] for row in rows)
    return [_join_key(values) for values in fitting if all(isinstance(each, (str, int)) for each in values)]


def _join_key(parts: Sequence[Any]) -> str:
    """A key as the server takes it."""
    texts = [str(part) for part in parts]
    return texts[0] if len(texts) == 1 else "|".join(map(escape_part, texts))


def _sampled_keys(partition: Partition, key: Sequence[str]) -> list[str]:
    with bounded_database(Path(tempfile.gettempdir())) as connection:
        partition.register(connection, "rows_of_it", partition.files)
        names = ", ".join(map(quote_name, key))
        texts = ", ".join(f"{quote_name(name)}::VARCHAR" for name in key)
        every = max(1, partition.rows // KEYS)
        found = connection.execute(
            f"SELECT {texts} FROM rows_of_it WHERE hash({names}) % {every} = 0 ORDER BY hash({names}) LIMIT {KEYS}"
        ).fetchall()
    return [_join_key(row) for row in found]


def _look_up(settings: Settings, name: str, keys: Sequence[str]) -> tuple[list[str | None], int]:
    """The value of each key as JSON text, None for none, and the served version."""
    found: list[str | None] = []
    with open_answers(settings, name) as answers:
        for first in range(0, len(keys), _AT_ONCE):
            encoded = [answers.encode(key) for key in keys[first : first + _AT_ONCE]]
            body, _ = answers.many(encoded)
            for each in orjson.loads(body)["results"]:
                found.append(orjson.dumps(each["value"]).decode() if each["found"] else None)
        return found, answers.manifest.version
