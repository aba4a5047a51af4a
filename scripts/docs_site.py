"""Hooks of the documentation site: parts that are made from the code, search boosts, links that leave docs/ as text."""

import json
import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK_OUT = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+?)(?:#[^)]*)?/?\)")
_BOOSTED = re.compile(r"(quickstart|runbook)\.md|how-to/.*")
"""Pages that a search shows before others that match as well."""
_WITHOUT_OPTIONS = re.compile(r"^(::: \S+)$(?!\n    )", re.MULTILINE)
"""A declaration: its fields are in its docstring."""
_ROUTES = "<!-- routes -->"
_SERVER = "http://127.0.0.1:8080"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page that is made from the code."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Boost pages, fill in what is made from the code, and name files outside docs/, which are not part of the site."""
    depth = page.file.src_uri.count("/")
    if _BOOSTED.fullmatch(page.file.src_uri):
        page.meta.setdefault("search", {}).setdefault("boost", 2)
    if page.file.src_uri == "reference/http.md":
        markdown = markdown.replace(_ROUTES, http_routes())
    if page.file.src_uri == "reference/declarations.md":
        markdown = _WITHOUT_OPTIONS.sub(r"\1\n    options: {members: false}", markdown)

    def named(link: "re.Match[str]") -> str:
        leaves = len(link[2]) // 3 > depth
        return f"{link[1]} (`{link[3]}`)" if leaves and link[1] != link[3] else f"`{link[3]}`" if leaves else link[0]

    return _LINK_OUT.sub(named, markdown)


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` says it."""
    from forecache.cli.main import cli

    lines = ["# Commands", "", "Every command takes `--json` for scripts and `--debug` for tracebacks.", ""]
    return "\n".join([*lines, *_commands(cli, "forecache", click.Context(cli, info_name="forecache"))])


def _commands(group: click.Group, path: str, context: click.Context) -> list[str]:
    lines: list[str] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=f"{path} {name}", max_content_width=100)
        lines += [f"## {path} {name}", "", "```text", command.get_help(inner), "```", ""]
        if isinstance(command, click.Group):
            lines += _commands(command, f"{path} {name}", inner)
    return lines


def http_routes() -> str:
    """The server's routes, each with its request and its answer, from its OpenAPI document."""
    from forecache.base.settings import load_settings
    from forecache.serve.reader.http.openapi import document

    found = document(load_settings())
    return "\n\n".join(
        part
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and "responses" in operation
        for part in _operation(found, path, method, operation, methods.get("parameters", []))
    )


def _operation(
    found: dict[str, Any], path: str, method: str, operation: dict[str, Any], of_path: list[dict[str, Any]]
) -> Iterator[str]:
    yield f"## {method.upper()} {path}"
    yield f"{operation['summary']}."
    parameters = [*of_path, *operation.get("parameters", [])]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    yield f"```sh\n{_curl(path, parameters, body)}\n```"
    if parameters:
        yield _table(
            ["Parameter", "In", "Type", "Meaning"],
            ([f"`{each['name']}`", each["in"], _type(found, each["schema"]), _meaning(each)] for each in parameters),
        )
    if body is not None:
        yield _table(["Of the request", "Type", "Required", "Meaning"], _members(found, body))
    answer = operation["responses"]["200"]["content"].get("application/json", {})
    if "example" in answer:
        yield f"```json\n{json.dumps(answer['example'], indent=2)}\n```"
    variants = _resolved(found, answer.get("schema", {})).get("oneOf", [answer.get("schema", {})])
    for variant in variants:
        rows = list(_members(found, variant))
        if len(variants) > 1:
            yield f"If `source` is {_type(found, variant['properties']['source'])}:"
        if rows:
            yield _table(["Of the answer", "Type", "Always", "Meaning"], rows)
    statuses = ", ".join(f"`{status}`" for status in operation["responses"])
    yield f"Statuses: {statuses} ([errors](#errors))."


def _curl(path: str, parameters: list[dict[str, Any]], body: dict[str, Any] | None) -> str:
    for each in parameters:
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", each["example"])
    command = f"curl {_SERVER}{path}"
    if body is None:
        return command
    example = {name: part["example"] for name, part in body["properties"].items() if "example" in part}
    return f"{command} -H 'Content-Type: application/json' \\\n  -d '{json.dumps(example)}'"


def _members(found: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[list[str]]:
    """A row for each member of an object, and of the objects in it."""
    schema = _resolved(found, schema)
    for name, part in schema.get("properties", {}).items():
        part = _resolved(found, part)
        required = "yes" if name in schema.get("required", ()) else "no"
        yield [f"`{path}{name}`", _type(found, part), required, _meaning(part)]
        is_list = part.get("type") == "array"
        yield from _members(found, part["items"] if is_list else part, f"{path}{name}{'[]' if is_list else ''}.")


def _type(found: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = _resolved(found, schema)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any value")
    if kinds == "array":
        return f"array: {_type(found, schema['items'])}"
    text = kinds if isinstance(kinds, str) else " or ".join(kinds)
    return f"{text} ({schema['format']})" if "format" in schema else text


def _meaning(described: dict[str, Any]) -> str:
    schema = described.get("schema", described)
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = [
        f"{least} to {most}." if least is not None and most is not None else "",
        f"At most {schema['maxItems']}." if "maxItems" in schema else "",
    ]
    return " ".join(part for part in (described.get("description", ""), *limits) if part)


def _table(heads: list[str], rows: Any) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _resolved(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return found["components"]["schemas"][name] if name else schema
