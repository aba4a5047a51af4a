"""`POST /get-online-features` in the request and response format of Feast's Python feature server (feast 0.67).

A feature reference is `pipeline:field`; a feature service is a pipeline, with all its served fields. Entity columns
are the pipeline's key columns. The event time of a found row is the midnight (UTC) that ended its as-of date, or, of a
streamed row, the time of its event. A list of structures, a type that Feast does not have, is the text of its JSON: a
String feature.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from forecache.base.errors import InputError
from forecache.kit.http.problems import bad_request, parse_json_object, quote_value
from forecache.serve.reader.http.messages import check_count, check_names, typed_member
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store.keys import encode_columns

_MEMBERS = frozenset(
    {"entities", "features", "feature_service", "full_feature_names", "include_feature_view_version_metadata"}
)
_EPOCH, _PRESENT, _NULL, _MISSING = "1970-01-01T00:00:00Z", "PRESENT", "NULL_VALUE", "NOT_FOUND"
Counts = list[tuple[VersionAnswers, int, int]]


class _Shape(NamedTuple):
    """The part of an answer that is the same for all requests which ask for the same features of the same versions."""

    views: tuple[tuple[VersionAnswers, tuple[str, ...]], ...]
    entities: tuple[str, ...]  # names of the key columns, which come before the features
    as_text: frozenset[tuple[str, str]]  # fields that are answered as the text of their JSON, with their pipelines
    metadata: orjson.Fragment
    read: list[str]


_shapes: dict[tuple[Any, ...], _Shape] = {}
_MOST_SHAPES, _LONGEST_NAMES = 256, 1 << 14
"""Shapes that are kept, and characters of the names in each: a client may send names as long as a body."""


def answer_request(
    body: bytes, served: Callable[[str], VersionAnswers], *, max_keys: int
) -> tuple[list[str], bytes, Counts]:
    """Answer a Feast request; `served` returns a pipeline's served version by name, or raises a `Problem`.

    Returns `pipeline=version` of each version that was read, the body, and (answers, keys found, keys missing) of each.
    """
    data = parse_json_object(body, _MEMBERS)
    entities = _check_entities(typed_member(data, "entities", dict), max_keys)
    shape = _find_shape(data, entities, served)
    num_rows = len(next(iter(entities.values())))
    results: list[dict[str, Any]] = []
    counts: Counts = []
    present, epochs = _repeat(_PRESENT, num_rows), _repeat(_EPOCH, num_rows)
    for name in shape.entities:
        results.append({"values": entities[name], "statuses": present, "event_timestamps": epochs})
    for answers, fields in shape.views:
        rows, moments = answers.dated_rows(_encode_keys(answers, entities))
        missing = rows.count(None)
        counts.append((answers, num_rows - missing, missing))
        times: Any = epochs
        if missing < num_rows:
            times = _repeat(_moment_text(moments[0]), num_rows)
            if missing or moments.count(moments[0]) < num_rows:
                pairs = zip(rows, moments, strict=True)
                times = [_EPOCH if row is None else _moment_text(moment) for row, moment in pairs]
        pipeline, nothing = answers.manifest.pipeline, dict.fromkeys(fields)
        columns = _columns_of([row or nothing for row in rows], fields)
        for field, column in zip(fields, columns, strict=True):
            values: Sequence[Any] = column
            statuses: Any = present
            if None in values:
                found = [_PRESENT if value is not None else _NULL for value in values]
                statuses = [_MISSING if row is None else each for row, each in zip(rows, found, strict=True)]
            if (pipeline, field) in shape.as_text:
                values = [None if value is None else orjson.dumps(value).decode() for value in values]
            results.append({"values": values, "statuses": statuses, "event_timestamps": times})
    return shape.read, orjson.dumps({"metadata": shape.metadata, "results": results}), counts


def _columns_of(rows: list[dict[str, Any]], fields: Sequence[str]) -> list[tuple[Any, ...]]:
    if not rows:
        return [()] * len(fields)
    values_of = itemgetter(*fields, fields[0])  # of two names or more, so that it returns tuples
    return list(zip(*map(values_of, rows), strict=True))[: len(fields)]


@lru_cache(64)
def _repeat(text: str, count: int) -> orjson.Fragment:
    """A list of so many equal texts as JSON."""
    return orjson.Fragment(orjson.dumps([text] * count))


@lru_cache(64)
def _moment_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _find_shape(
    data: dict[str, Any], entities: dict[str, list[Any]], served: Callable[[str], VersionAnswers]
) -> _Shape:
    """Find the shape of a request's answer; raises a `Problem` if a feature or key column is wrong."""
    full_names = typed_member(data, "full_feature_names", bool, False)
    with_versions = typed_member(data, "include_feature_view_version_metadata", bool, False)
    features, service = data.get("features"), data.get("feature_service")
    asked = None
    if service is None and type(features) is list and set(map(type, features)) == {str}:
        asked = (*features, full_names, with_versions, *entities)
        shape = _shapes.get(asked)
        if shape is not None and all(served(each.manifest.pipeline) is each for each, _ in shape.views):
            for answers, _ in shape.views:
                answers.check_age()
            return shape
    views = _requested_views(data, served)
    _check_collisions(views, full_names=full_names)
    keys = list(dict.fromkeys(name for answers, _ in views for name in answers.manifest.key.names))
    for name in keys:
        if name not in entities:
            known = ", ".join(map(quote_value, entities))
            raise bad_request(f"The entities lack the key column {name!r}; they have {known}.")
    names = [
        f"{answers.manifest.pipeline}__{field}" if full_names else field
        for answers, fields in views
        for field in fields
    ]
    manifests = [answers.manifest for answers, _ in views]
    metadata: dict[str, Any] = {"feature_names": keys + names}
    if with_versions:
        metadata["feature_view_metadata"] = [{"name": each.pipeline, "version": each.version} for each in manifests]
    shape = _Shape(
        tuple((answers, tuple(fields)) for answers, fields in views),
        tuple(keys),
        frozenset((each.pipeline, field.name) for each in manifests for field in each.fields if field.holds_structs),
        orjson.Fragment(orjson.dumps(metadata)),
        [f"{each.pipeline}={each.version}" for each in manifests],
    )
    if asked is not None and sum(len(str(part)) for part in asked) <= _LONGEST_NAMES:
        if len(_shapes) >= _MOST_SHAPES:
            _shapes.clear()
        _shapes[asked] = shape
    return shape


def _check_entities(entities: dict[str, Any], max_keys: int) -> dict[str, list[Any]]:
    lengths = set()
    for name, values in entities.items():
        if type(values) is not list:
            raise bad_request(f"The entity column {quote_value(name)} is not an array.")
        lengths.add(len(values))
    if len(lengths) != 1:
        found = "no column" if not lengths else "columns of different lengths"
        raise bad_request(f"The entities have {found}; send arrays of one length.")
    check_count(lengths.pop(), max_keys)
    return entities


def _requested_views(
    data: dict[str, Any], served: Callable[[str], VersionAnswers]
) -> list[tuple[VersionAnswers, list[str]]]:
    """The pipelines of a request in the order of their first mention, with the requested fields of each."""
    service = data.get("feature_service")
    if service is not None:
        answers = served(typed_member(data, "feature_service", str))
        answers.check_age()
        return [(answers, list(answers.manifest.field_names))]
    wanted: dict[str, list[str]] = {}
    for reference in check_names(typed_member(data, "features", list, []), "features"):
        view, colon, field = reference.partition(":")
        if not colon or not field:
            raise bad_request(f"The feature {quote_value(reference)} is not a reference; write pipeline:field.")
        wanted.setdefault(view.partition("@")[0], []).append(field)
    if not wanted:
        raise bad_request("The request names no feature; send `features` or `feature_service`.")
    views = [(served(view), fields) for view, fields in wanted.items()]
    for answers, fields in views:
        answers.check_fields(fields)
        answers.check_age()
    return views


def _check_collisions(views: list[tuple[VersionAnswers, list[str]]], *, full_names: bool) -> None:
    """Refuse two features with the same name, as Feast does."""
    seen: dict[str, str] = {}
    for answers, fields in [] if full_names else views:
        for field in fields:
            if field in seen:
                raise bad_request(
                    f"Both {seen[field]} and {answers.manifest.pipeline} have the feature {field!r}; "
                    "set full_feature_names to true."
                )
            seen[field] = answers.manifest.pipeline


def _encode_keys(answers: VersionAnswers, entities: dict[str, list[Any]]) -> list[bytes]:
    schema = answers.manifest.key
    columns: list[Sequence[Any]] = [entities[name] for name in schema.names]
    for name, values in zip(schema.names, columns, strict=True):
        if not set(map(type, values)) <= _KEY_TYPES:
            wrong = next(value for value in values if type(value) not in _KEY_TYPES)
            remedy = "Entity values are text or integers."
            raise InputError(f"The entity column {name!r} holds {quote_value(wrong)}.", remedy=remedy)
    return answers.keys.encode_values(columns[0]) if len(columns) == 1 else encode_columns(schema, columns)


_KEY_TYPES = frozenset({str, int})
