"""The reader's OpenAPI 3.1 document, served at `/openapi.json`."""

from typing import Any

from forecache.base.names import NAME
from forecache.base.settings import Settings
from forecache.kit.http.problems import CONTENT_TYPE, KINDS, ProblemKind
from forecache.serve.reader.http.parsing import MAX_FIELDS, MAX_LIMIT
from forecache.serve.reader.tokens import METRICS

Schema = dict[str, Any]
VERSION = "1"


def document(settings: Settings) -> Schema:
    """The document for a reader with these settings, which includes its limits and whether it requires tokens."""
    secured = settings.reader_tokens is not None
    status = operation("The status: a page, or JSON if asked for", "statusPage", _ANY, 401, 403)
    status["responses"]["200"]["content"]["text/html"] = {"schema": _TEXT}
    paths = {
        "/v1": {"get": operation("List the served pipelines", "listPipelines", _ref("Pipelines"), 401)},
        "/v1/{pipeline}": {
            "parameters": [_PIPELINE],
            "get": operation("What a pipeline serves", "describePipeline", _ref("Metadata"), *_READ, etag=True),
            "post": operation(
                "Answers for many keys, in their order", "getMany", _ref("Many"), 413, 415, 422, 408, *_READ,
                body=_many_request(settings.reader_max_keys),
            ),
        },
        "/versions/{pipeline}": {
            "parameters": [_PIPELINE],
            "get": operation("Retained versions, newest first", "listVersions", _ref("History"), *_READ),
        },
        "/v1/{pipeline}/{key}": {
            "parameters": [_PIPELINE, _KEY],
            "get": operation(
                "The answer for one key", "getOne", _ref("Answer"), *_READ, etag=True, parameters=[_FIELDS, _LIMIT]
            ),
        },
        "/get-online-features": {
            "post": operation(
                "Feast's request and response (feast 0.67)", "getOnlineFeatures", _ref("FeastResponse"),
                413, 415, 422, 408, *_READ, body=_feast_request(settings.reader_max_keys),
            ),
        },
        "/healthz": {"get": operation("Whether the process answers", "health", _ref("Status"), public=True)},
        "/readyz": {"get": operation("Whether to send it requests", "ready", _ref("Status"), 503, public=True)},
        "/metrics": {"get": operation("Metrics for Prometheus", "metrics", None, 401, 403)},
        "/status": {"get": status},
        "/status.json": {"get": operation("The status, and what is not well", "status", _ANY, 401, 403)},
        "/openapi.json": {"get": operation("This document", "openapi", {"type": "object"}, public=True)},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Forecache reader",
            "version": VERSION,
            "description": "Precomputed predictions, each with its freshness and the model it comes from.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{"token": []}] if secured else [],
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"A token whose scopes cover the pipeline (or `{METRICS}` for the metrics).",
                }
            },
        },
    }


_PIPELINE: Schema = {
    "name": "pipeline", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"}, "example": "churn",
}  # fmt: skip
_KEY: Schema = {
    "name": "key", "in": "path", "required": True,
    "description": "The key as text; the columns of a composite key joined by `|`, with `%` and `|` inside a "
    "column's text written `%25` and `%7C` (before percent-encoding). Clients resolve the dots of the keys `.` and "
    "`..`: ask for those by POST.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 511}, "example": "00042",
}  # fmt: skip
_FIELDS: Schema = {
    "name": "fields", "in": "query", "required": False, "style": "form", "explode": False,
    "description": "Only these fields, separated by commas.",
    "schema": {
        "type": "array", "items": {"type": "string", "minLength": 1, "pattern": "^[^,]+$"}, "maxItems": MAX_FIELDS,
    },
}  # fmt: skip
_WHOLE: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}
_LIMIT: Schema = {
    "name": "limit", "in": "query", "required": False, "schema": _WHOLE,
    "description": "Only the first so many items of each list of the value.",
}  # fmt: skip
_READ = (400, 401, 403, 404, 503)


def operation(
    summary: str,
    operation_id: str,
    answer: Schema | None,
    *statuses: int,
    body: Schema | None = None,
    etag: bool = False,
    public: bool = False,
    parameters: list[Schema] | None = None,
) -> Schema:
    content: Schema = {"application/json": {"schema": answer}} if answer else {"text/plain": {"schema": _TEXT}}
    responses: Schema = {"200": {"description": "Answered.", "content": content}}
    if etag:
        responses["304"] = {"description": "The version is the one that If-None-Match names."}
    for status in sorted({*statuses, 405, 414}):
        responses[str(status)] = _problem(status)
    responses["431"] = {"description": "The header fields are too large; refused by the server, without a body."}
    operation: Schema = {"summary": summary, "operationId": operation_id, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if public:
        operation["security"] = []
    if parameters:
        operation["parameters"] = parameters
    return operation


def _problem(status: int) -> Schema:
    titles = "; ".join(kind.title for kind in KINDS if kind.status == status)
    headers = {401: "WWW-Authenticate", 405: "Allow"}
    response: Schema = {"description": titles, "content": {CONTENT_TYPE: {"schema": _ref("Problem")}}}
    if status in headers:
        response["headers"] = {headers[status]: {"schema": _TEXT, "required": True}}
    return response


def _many_request(max_keys: int) -> Schema:
    return _object(
        {
            "keys": _array({"type": ["string", "integer"]}, maxItems=max_keys, example=["00042", "00043"]),
            "fields": _array(_TEXT | {"minLength": 1}, maxItems=MAX_FIELDS),
            "limit": _WHOLE | {"description": _LIMIT["description"]},
        },
        required=["keys"], additionalProperties=False,
    )  # fmt: skip


def _feast_request(max_keys: int) -> Schema:
    # Columns that are not key columns may have any values: Feast's clients send all entity columns that they have.
    column = _array({}, maxItems=max_keys)
    return _object(
        {
            "entities": {"type": "object", "additionalProperties": column, "example": {"customer_id": ["00042"]}},
            "features": _array(_TEXT | {"pattern": "^[^:]+:.+$"}, example=["churn:churn_probability"]),
            "feature_service": {"type": ["string", "null"]},
            "full_feature_names": _FLAG,
            "include_feature_view_version_metadata": _FLAG,
        },
        required=["entities"], additionalProperties=False,
    )  # fmt: skip


_TEXT: Schema = {"type": "string"}
_ANY: Schema = {"type": "object"}
_NUMBER: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_DATE: Schema = {"type": "string", "format": "date"}
_VALUE: Schema = {"type": "object", "description": "The served fields, or the requested ones."}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _object(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def _schemas() -> Schema:
    model = _object({"name": _TEXT, "version": _NUMBER})
    version = {"store_version": _NUMBER, "as_of": _DATE, "published_at": _TIME}
    made_by = {"model": model | {"description": "Of predictions; features have none."}, "scored_at": _TIME}
    freshness = {
        "age_s": _NUMBER | {"minimum": 0, "description": "Seconds since the midnight (UTC) that ended `as_of`."},
        "stale": _FLAG | {"description": "Whether the age is beyond what the pipeline's declaration allows."},
    }
    provenance = {"source": {"enum": ["precomputed"]}, **version, **freshness}
    found, streamed = {"key": _TEXT, "value": _VALUE}, _streamed_members()
    replaced = {"description": "The published version, if it is damaged and this one replaces it."}
    fallback = {"fallback_for": _NUMBER | replaced}
    alone = {"store_version": {"type": ["integer", "null"]}, "published_at": {"type": ["string", "null"]}}
    pipeline = {"pipeline": _TEXT, "keys": _NUMBER, **version, **alone, **freshness}
    typed = _array(_object({"name": _TEXT, "type": _TEXT, "size": _NUMBER}, required=["name", "type"]))
    described = {"key": typed, "fields": typed, "policy": {"type": "object"}}
    packed = {"contract": _TEXT | {"description": "Of features, what they mean."}, "columns": _array(_TEXT)}
    result = _object(
        {"key": _TEXT, "found": _FLAG, "value": _VALUE, "model": model, "scored_at": _TIME, **streamed},
        required=["key", "found"],
        description="`value` if found. Own provenance members if the row was carried forward or streamed.",
    )
    many = {"results": _array(result), **provenance, **made_by, **fallback, "source": {"enum": ["precomputed", "live"]}}
    state = _array({"enum": ["serving", "current", "pinned", "quarantined"]})
    kept = {**version, "kind": _TEXT, "keys": _NUMBER, "source_delta_version": _NUMBER, "content_hash": _TEXT,
            "size_bytes": _NUMBER, "state": state}  # fmt: skip
    entry = _object({**kept, **made_by}, required=list(kept))
    status = {"enum": ["PRESENT", "NOT_FOUND", "NULL_VALUE"]}
    column = _object({"values": _array({}), "statuses": _array(status), "event_timestamps": _array(_TIME)})
    return {
        "Answer": {
            "oneOf": [
                _object({**found, **provenance, **made_by, **fallback}, required=[*found, *provenance]),
                _object({**found, **streamed, **made_by}, required=[*found, *streamed]),
            ]
        },
        "Many": _object(many, required=["results", "source", *freshness]),
        "Metadata": _object({**pipeline, **described, **made_by, **packed}, required=[*pipeline, *described]),
        "Pipelines": _object({"pipelines": _array(_object({**pipeline, **made_by}, required=list(pipeline)))}),
        "History": _object({"pipeline": _TEXT, "versions": _array(entry)}),
        "FeastResponse": _object({"metadata": _object({"feature_names": _array(_TEXT)}), "results": _array(column)}),
        "Status": _object({"status": _TEXT}),
        "Problem": _problem_schema(KINDS),
    }


def _streamed_members() -> Schema:
    """The members of a live answer beside its key and value."""
    position = {"type": ["integer", "null"], "description": "Version of the stream's table; null if no commit has it."}
    event = _TIME | {"type": ["string", "null"], "description": "Null if none has come to a live view."}
    verified = {"description": "Version of the table at which the live layer was found equal to it; -1: never."}
    age = {"minimum": 0, "description": "Seconds since `event_time`, or since the midnight (UTC) that ended the night."}
    told = {"position": position, "event_time": event, "verified_through": _NUMBER | verified}
    return {"source": {"enum": ["live"]}, **told, "age_s": _NUMBER | age, "stale": _FLAG}


def _problem_schema(kinds: tuple[ProblemKind, ...]) -> Schema:
    return _object(
        {"type": {"enum": [kind.uri for kind in kinds]}, "title": _TEXT, "status": _NUMBER, "detail": _TEXT},
        description="RFC 9457. `type` names the kind of problem; further members depend on it.",
    )
