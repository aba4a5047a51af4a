"""The reader's OpenAPI 3.1 document, served at `/openapi.json`.

`openapi.json` beside this file is the document, but for the limits of a reader and whether it requires tokens. Its
references to responses and parameters are replaced by what they refer to before it is served.
"""

import json
from pathlib import Path
from typing import Any

from forecache.base.settings import Settings

Schema = dict[str, Any]
_FILE: Schema = json.loads(Path(__file__).with_name("openapi.json").read_text())
_INLINED = ("responses", "parameters")


def document(settings: Settings) -> Schema:
    """The document for a reader with these settings, which includes its limits and whether it requires tokens."""
    paths: Schema = _inline_references(_FILE["paths"])
    most = {"maxItems": settings.reader_max_keys}
    _request_members(paths["/v1/{pipeline}"])["keys"] |= most
    _request_members(paths["/get-online-features"])["entities"]["additionalProperties"] |= most
    components = {name: part for name, part in _FILE["components"].items() if name not in _INLINED}
    security: list[Schema] = [{"token": []}] if settings.reader_tokens is not None else []
    return {**_FILE, "paths": paths, "security": security, "components": components}


def problem_responses(*statuses: int) -> Schema:
    """The responses of an operation that fails with these status codes, and with those that every operation has."""
    return {str(status): _FILE["components"]["responses"][str(status)] for status in sorted({*statuses, 405, 414, 431})}


def _request_members(path: Schema) -> Schema:
    members: Schema = path["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    return members


def _inline_references(part: Any) -> Any:
    """A copy of a part of the file in which the components of `_INLINED` stand in place of their references."""
    if isinstance(part, list):
        return [_inline_references(each) for each in part]
    if not isinstance(part, dict):
        return part
    kind, _, name = part.get("$ref", "").removeprefix("#/components/").partition("/")
    if kind in _INLINED:
        return _inline_references(_FILE["components"][kind][name])
    return {key: _inline_references(each) for key, each in part.items()}
