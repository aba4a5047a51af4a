"""Hooks of the documentation site: pages made from the code, and links that leave docs/ as plain text."""

import re
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK_OUT = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+?)/?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    pages = {"commands": commands_page, "http": http_page}
    for name, make in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Files beside docs/ are not part of the site: name them where the repository would link them."""
    depth = page.file.src_uri.count("/")

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


def http_page() -> str:
    """The reader's routes and errors, from its OpenAPI document."""
    from forecache.base.settings import load_settings
    from forecache.serve.reader.http.openapi import document

    found = document(load_settings())
    lines = ["# HTTP", "", "The reader serves this as an OpenAPI document at `/openapi.json`;"]
    lines += ["[the guide of serving](../how-to/serve.md) explains it.", ""]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            if isinstance(operation, dict) and "responses" in operation:
                lines += _operation(found, f"{method.upper()} {path}", operation)
    return "\n".join(lines)


def _operation(found: dict[str, Any], title: str, operation: dict[str, Any]) -> list[str]:
    text = operation.get("description") or operation.get("summary", "")
    rows = [f"| {status} | {_described(found, answer)} |" for status, answer in operation["responses"].items()]
    return [f"## {title}", "", text, "", "| Status | When |", "| --- | --- |", *rows, ""]


def _described(document: dict[str, Any], response: dict[str, Any]) -> str:
    if "$ref" in response:
        name = response["$ref"].rpartition("/")[2]
        response = document["components"]["responses"][name]
    return str(response.get("description", "")).replace("\n", " ")
