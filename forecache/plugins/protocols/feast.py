"""`POST /get-online-features` in the request and response format of Feast's Python feature server (feast 0.67).

A feature reference is `pipeline:field`; a feature service is a pipeline, with all its served fields. Entity columns
are the pipeline's key columns. The event time of a found row is the midnight (UTC) that ended its as-of date, or, of a
streamed row, the time of its event. A list of structures, a type that Feast does not have, is the text of its JSON: a
String feature.
"""

from collections.abc import Callable
from typing import Any

import orjson

from forecache.base.errors import InputError
from forecache.kit.http.problems import bad_request, parse_json_object, quote_value
from forecache.serve.reader.http.messages import check_count, check_names, typed_member
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import encode_key

_MEMBERS = frozenset(
    {"entities", "features", "feature_service", "full_feature_names", "include_feature_view_version_metadata"}
)
_EPOCH = "1970-01-01T00:00:00Z"
Counts = list[tuple[VersionAnswers, int, int]]


def answer_request(
    body: bytes, served: Callable[[str], VersionAnswers], *, max_keys: int
) -> tuple[list[str], bytes, Counts]:
    """Answer a Feast request; `served` returns a pipeline's served version by name, or raises a `Problem`.

    Returns `pipeline=version` of each version that was read, the body, and (answers, keys found, keys missing) of each.
    """
    data = parse_json_object(body, _MEMBERS)
    entities = _check_entities(typed_member(data, "entities", dict), max_keys)
    full_names = typed_member(data, "full_feature_names", bool, False)
    with_versions = typed_member(data, "include_feature_view_version_metadata", bool, False)
    views = _requested_views(data, served)
    _check_collisions(views, full_names=full_names)

    num_rows = len(next(iter(entities.values())))
    feature_names: list[str] = []
    results: list[dict[str, list[Any]]] = []
    counts: Counts = []
    for name in dict.fromkeys(name for answers, _ in views for name in answers.manifest.key.names):
        if name not in entities:
            known = ", ".join(map(quote_value, entities))
            raise bad_request(f"The entities lack the key column {name!r}; they have {known}.")
        feature_names.append(name)
        results.append(
            {"values": entities[name], "statuses": ["PRESENT"] * num_rows, "event_timestamps": [_EPOCH] * num_rows}
        )
    for answers, fields in views:
        rows, moments = answers.dated_rows(_encode_keys(answers, entities, num_rows))
        found = sum(row is not None for row in rows)
        counts.append((answers, found, num_rows - found))
        texts = {moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in set(moments)}
        times = [_EPOCH if row is None else texts[moment] for row, moment in zip(rows, moments, strict=True)]
        as_text = {field.name for field in answers.manifest.fields if field.holds_structs}
        for field in fields:
            values = [None if row is None else row[field] for row in rows]
            if field in as_text:
                values = [None if value is None else orjson.dumps(value).decode() for value in values]
            statuses = [
                "NOT_FOUND" if row is None else "PRESENT" if row[field] is not None else "NULL_VALUE" for row in rows
            ]
            feature_names.append(f"{answers.manifest.pipeline}__{field}" if full_names else field)
            results.append({"values": values, "statuses": statuses, "event_timestamps": times})
    metadata: dict[str, Any] = {"feature_names": feature_names}
    if with_versions:
        metadata["feature_view_metadata"] = [
            {"name": answers.manifest.pipeline, "version": answers.manifest.version} for answers, _ in views
        ]
    read = [f"{answers.manifest.pipeline}={answers.manifest.version}" for answers, _ in views]
    return read, orjson.dumps({"metadata": metadata, "results": results}), counts


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


def _encode_keys(answers: VersionAnswers, entities: dict[str, list[Any]], num_rows: int) -> list[bytes]:
    schema = answers.manifest.key
    columns = [entities[name] for name in schema.names]
    for name, values in zip(schema.names, columns, strict=True):
        for value in values:
            if type(value) is not str and type(value) is not int:
                remedy = "Entity values are text or integers."
                raise InputError(f"The entity column {name!r} holds {quote_value(value)}.", remedy=remedy)
    return [encode_key(schema, [values[row] for values in columns]) for row in range(num_rows)]
