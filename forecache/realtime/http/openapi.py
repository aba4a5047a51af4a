"""The paths of real-time models in the reader's OpenAPI document."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forecache.declare.realtime.request import RequestField
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_parser import MAX_REQUEST_ID_CHARS, REQUEST_ID
from forecache.serve.reader.http.openapi import problem_responses

Schema = dict[str, Any]
_SCHEMAS: Schema = json.loads(Path(__file__).with_name("schemas.json").read_text())
_READ = (400, 401, 403, 503)


def model_paths(releases: Sequence[Release]) -> Schema:
    return {f"/v1/{release.name}": _path(release) for release in releases}


def _path(release: Release) -> Schema:
    name = release.name
    asking = {
        "parameters": _SCHEMAS["headers"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _request(release)}}},
    }
    failures = (408, 413, 415, 422, 429, 504, *_READ)
    return {
        "get": _operation(f"What answers for {name}", f"describe_{name}", {"type": "object"}, _READ),
        "post": _operation(release.description or f"Ask {name}", f"ask_{name}", _answer(release), failures) | asking,
    }


def _operation(summary: str, operation_id: str, answer: Schema, failures: Sequence[int]) -> Schema:
    answered = {"description": "Answered.", "content": {"application/json": {"schema": answer}}}
    responses = {"200": answered, **problem_responses(*failures)}
    return {"summary": summary, "operationId": operation_id, "responses": responses}


def _request(release: Release) -> Schema:
    closed = release.on_unknown == "refuse"
    schema, listed = _fields(release.request, closed=closed), release.candidates
    schema["properties"].setdefault(REQUEST_ID, {"type": "string", "maxLength": MAX_REQUEST_ID_CHARS})
    if listed is not None:
        item = _fields(listed.fields, closed=closed)
        if len(listed.fields) == 1:
            item = {"anyOf": [_field(listed.item), item]}
        schema["properties"][listed.name] = {"type": "array", "items": item, "maxItems": listed.most}
        schema["required"].append(listed.name)
    return schema


def _fields(fields: Sequence[RequestField], *, closed: bool) -> Schema:
    required = [field.name for field in fields if field.default is None]
    schema = _object({field.name: _field(field) for field in fields}, required)
    return schema | ({"additionalProperties": False} if closed else {})


def _field(field: RequestField) -> Schema:
    schema = dict(_SCHEMAS["types"][field.type])
    if field.description:
        schema["description"] = field.description
    if field.default is not None:
        schema["type"] = [schema["type"], "null"]
    return schema


def _answer(release: Release) -> Schema:
    number: Schema = {"type": ["number", "null"]}
    if release.candidates is not None:
        item = release.candidates.item
        items = _object({item.name: _field(item), release.output: number, "answered_by": {"type": "string"}})
        shown: Schema = {"items": {"type": "array", "items": items}}
    else:
        shown = {"value": _object({release.output: number})}
    members = {**_SCHEMAS["answer_members"], **shown}
    return _object({**members, **_SCHEMAS["further_answer_members"]}, list(members))


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
