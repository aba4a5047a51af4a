"""The paths of real-time models in the reader's OpenAPI document."""

from collections.abc import Sequence
from typing import Any

from forecache.declare.realtime.request import RequestField
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_parser import MAX_REQUEST_ID_CHARS, REQUEST_ID
from forecache.serve.reader.http.openapi import problem_responses

Schema = dict[str, Any]
_TYPES: dict[str, Schema] = {
    "bigint": {"type": "integer", "format": "int64"},
    "double": {"type": "number"},
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}
_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_TIME_LEFT: Schema = {
    "name": "X-Deadline-Ms", "in": "header", "required": False, "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "Milliseconds in which the answer is wanted, at most those of the declaration.",
}  # fmt: skip
_READ = (400, 401, 403, 503)


def model_paths(releases: Sequence[Release]) -> Schema:
    return {f"/v1/{release.name}": _path(release) for release in releases}


def _path(release: Release) -> Schema:
    name = release.name
    asking = {
        "parameters": [_TIME_LEFT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _request(release)}}},
    }
    failures = (408, 413, 415, 422, 504, *_READ)
    return {
        "get": _operation(f"What answers for {name}", f"describe_{name}", {"type": "object"}, _READ),
        "post": _operation(release.description or f"Ask {name}", f"ask_{name}", _answer(release), failures) | asking,
    }


def _operation(summary: str, operation_id: str, answer: Schema, failures: Sequence[int]) -> Schema:
    answered = {"description": "Answered.", "content": {"application/json": {"schema": answer}}}
    responses = {"200": answered, **problem_responses(*failures)}
    return {"summary": summary, "operationId": operation_id, "responses": responses}


def _request(release: Release) -> Schema:
    fields = {field.name: _field(field) for field in release.request}
    required = [field.name for field in release.request if field.default is None]
    fields.setdefault(REQUEST_ID, _TEXT | {"maxLength": MAX_REQUEST_ID_CHARS})
    listed = release.candidates
    if listed is not None:
        item: Schema = _object(
            {field.name: _field(field) for field in listed.fields},
            [field.name for field in listed.fields if field.default is None],
            closed=release.on_unknown == "refuse",
        )
        if len(listed.fields) == 1:
            item = {"anyOf": [_field(listed.item), item]}
        fields[listed.name] = {"type": "array", "items": item, "maxItems": listed.most}
        required.append(listed.name)
    return _object(fields, required, closed=release.on_unknown == "refuse")


def _field(field: RequestField) -> Schema:
    schema = dict(_TYPES[field.type])
    if field.description:
        schema["description"] = field.description
    if field.default is not None:
        schema["type"] = [schema["type"], "null"]
    return schema


def _answer(release: Release) -> Schema:
    number: Schema = {"type": ["number", "null"]}
    if release.candidates is not None:
        item = release.candidates.item
        items = _object({item.name: _field(item), release.output: number, "rung": _TEXT})
        shown: Schema = {"items": {"type": "array", "items": items}}
    else:
        shown = {"value": _object({release.output: number})}
    store = _object({"version": _WHOLE, "as_of": _TYPES["date"], "age_s": _WHOLE, "stale": {"type": "boolean"}})
    always: Schema = {
        "name": _TEXT,
        "request_id": {"type": ["string", "null"]},
        **shown,
        "rung": _TEXT,
        "rungs": {"type": "object", "additionalProperties": _WHOLE},
        "model": _object({"name": _TEXT, "version": _WHOLE, "runtime": _TEXT}),
        "release": _WHOLE,
        "stores": {"type": "object", "additionalProperties": store},
        "deadline_ms": _TYPES["double"],
        "timings_ms": {"type": "object", "additionalProperties": _TYPES["double"]},
    }
    sometimes: Schema = {
        "why": _TEXT | {"description": "Why the model did not answer."},
        "flags": {"type": "array", "items": _TEXT},
        "late": {"type": "boolean"},
    }
    return _object({**always, **sometimes}, list(always))


def _object(properties: Schema, required: list[str] | None = None, *, closed: bool = False) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    schema["required"] = list(properties) if required is None else required
    return schema | ({"additionalProperties": False} if closed else {})
