"""The page on the HTTP interface, from its OpenAPI document, without anything from the internet."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from forecache.plugins.status.page.document import page
from forecache.plugins.status.page.markup import Content, Markup, mark_code, section, table, tag

_METHODS = ("get", "post")
_DEEPEST = 4


def render_api(document: Mapping[str, Any]) -> bytes:
    """The page: each operation with its parameters, bodies and responses, and the schemas that they name."""
    info = document["info"]
    header = tag(
        "header",
        tag("div", tag("h1", info["title"]), tag("p", "HTTP interface", class_="product")),
        tag("p", tag("a", "openapi.json", href="openapi.json"), " · ", tag("a", "status", href="status"),
            class_="moment"),
        class_="top",
    )  # fmt: skip
    operations = [
        _operation(path, method, {"parameters": [*item.get("parameters", ()), *item[method].get("parameters", ())]}
                   | {name: part for name, part in item[method].items() if name != "parameters"}, document)
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]  # fmt: skip
    return page(f"{info['title']}: HTTP", "well", header, tag("main", operations))


def _operation(path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Markup:
    name = f"{method}-{path.strip('/').replace('/', '-') or 'root'}"
    parts: list[Content] = [tag("p", mark_code(operation.get("description", "")), class_="told")]
    if operation["parameters"]:
        rows = [
            [each["name"], each["in"], _type(each.get("schema", {}), document), each.get("description", "")]
            for each in operation["parameters"]
        ]
        parts.append(table("Parameters", ("Parameter", "In", "Type", "Meaning"), rows, long=(3,)))
    for title, content in _bodies(operation):
        parts += [tag("h3", title), tag("pre", tag("code", _example(content, document)))]
    answered = [
        [status, response.get("description", "")] for status, response in sorted(operation["responses"].items())
    ]
    parts.append(table("Responses", ("Status", "Meaning"), answered, long=(1,)))
    heading = [tag("code", f"{method.upper()} {path}"), f" {operation.get('summary', '')}"]
    return section(heading, name, tag("div", parts, class_="card"))


def _bodies(operation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas of the request and of the answer."""
    answer = operation["responses"].get("200", {})
    for title, part in (("Request", operation.get("requestBody", {})), ("Answer", answer)):
        for kind, content in part.get("content", {}).items():
            if "json" in kind:
                yield title, content


def _example(content: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    example = content.get("example", _sample(content.get("schema", {}), document))
    return orjson.dumps(example, option=orjson.OPT_INDENT_2).decode()


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref", "")
    if not reference:
        return schema
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return _resolved(found, document)


def _sample(schema: Mapping[str, Any], document: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that a schema allows: its examples, or else the names of the types in place of the values."""
    schema = _resolved(schema, document)
    for name in ("example", "const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("oneOf", "anyOf", "allOf"):
        if schema.get(name):
            return _sample(schema[name][0], document, depth)
    if depth >= _DEEPEST:
        return _type(schema, document)
    if "properties" in schema:
        return {name: _sample(each, document, depth + 1) for name, each in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), Mapping):
        return {"name": _sample(schema["additionalProperties"], document, depth + 1)}
    if "items" in schema:
        return [_sample(schema["items"], document, depth + 1)]
    return _type(schema, document)


def _type(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    schema = _resolved(schema, document)
    kind = schema.get("type", "any")
    kinds: Sequence[str] = kind if isinstance(kind, list) else [kind]
    return " or ".join(kinds) + (f", {schema['format']}" if "format" in schema else "")
