"""The documentation: the site builds with every link whole, and what its code blocks name exists."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import click
import duckdb
import pytest
from ui_support import browser_page, find_browser

import forecache.declare
import forecache.plugins.recommend.models
from forecache.base.settings import PROJECT_ROOT
from forecache.cli.base import DefaultGroup
from forecache.cli.main import cli

NAMED = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(PROJECT_ROOT / name for name in NAMED), *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(PROJECT_ROOT)) for page in PAGES]


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in one of the languages, whatever title or indentation they have."""
    found = re.findall(r"^ *```(\w*)[^\n`]*\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, which has built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_a_page_for_each_part(site: Path) -> None:
    reference = site / "reference"
    assert "forecache rollback" in (reference / "commands" / "index.html").read_text()
    assert "forecache_reader_requests_total" in (reference / "metrics" / "index.html").read_text()
    http = (reference / "http" / "index.html").read_text()
    assert "POST /v1/{pipeline}" in http
    assert "results[].value" in http
    assert "max_gradient_norm" in (reference / "declarations" / "index.html").read_text()


FOUND = {
    "skew": "how-to/parity",
    "backfill": "how-to/operate",
    "quickstart": "quickstart",
    "authentication": "how-to/serve",
    "rollback": "how-to/operate",
    "fallback": "how-to/real-time-models",
    "online store": "how-to/features",
}
"""Words that people search for, and the page that has to be among the first two."""


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs a browser: scripts/install_test_services.sh chromium")
def test_the_search_finds_the_page_of_a_word_among_the_first_two(site: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser_page() as page:
        Thread(target=server.serve_forever, daemon=True).start()
        first_two = {}
        for words in FOUND:
            page.goto(f"http://127.0.0.1:{server.server_port}/?q={words}")
            items = page.locator(".md-search-result__item")
            items.nth(1).wait_for(state="attached")
            links = [items.nth(place).locator("a").first.get_attribute("href") or "" for place in range(2)]
            first_two[words] = [urlsplit(link).path.strip("/") for link in links]
        server.shutdown()
    assert {words: pages for words, pages in first_two.items() if FOUND[words] not in pages} == {}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_to_files_lead_to_files(page: Path) -> None:
    generated = {"commands.md"}
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    broken = [
        link
        for link in links
        if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists()
        and Path(link).name not in generated
    ]  # fmt: skip
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:forecache|assets|jobs|resources|dagster_project)/[\w/]+\.py)`", page.read_text())
    assert [path for path in named if not (PROJECT_ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_are_python_and_what_they_import_exists(page: Path) -> None:
    for block in blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("forecache"):
                names = ", ".join(alias.name for alias in node.names)
                exec(f"from {node.module} import {names}", {})


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_declarations_in_blocks_and_in_the_text_have_the_fields_that_they_are_given(page: Path) -> None:
    known = {**vars(forecache.declare), **vars(forecache.plugins.recommend.models)}
    for code in [*blocks(page, "python", "py"), *inline_declarations(page)]:
        for node in ast.walk(ast.parse(code)):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if isinstance(node, ast.Call) and isinstance(known.get(name), type):
                named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                given = [None for value in node.args if not is_rest(value)]
                inspect.signature(known[name]).bind_partial(*given, **named)


def inline_declarations(page: Path) -> list[str]:
    """Code in the text, outside of blocks, that is a call, such as `Publish(backend="redis")`."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    calls = []
    for code in re.findall(r"`((?:\w+=)?[A-Z]\w+\([^`]*\))`", text):
        call = re.sub(r"=(?=[,)])", "=...", code.partition("=")[2] if re.match(r"\w+=", code) else code)
        try:
            ast.parse(call)
        except SyntaxError:  # such as `Training(batch_size, seed)` with an ellipsis in words
            continue
        calls.append(call)
    return calls


def is_rest(value: ast.expr) -> bool:
    """Whether an argument stands for others: `...` or `*columns`."""
    return isinstance(value, ast.Starred) or (isinstance(value, ast.Constant) and value.value is ...)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_sql_blocks_are_sql_and_json_blocks_are_json(page: Path) -> None:
    for block in blocks(page, "sql"):
        (parsed,) = duckdb.connect().execute("select json_serialize_sql(?)", [block]).fetchone() or ("",)
        assert not json.loads(parsed)["error"], parsed
    for block in blocks(page, "json"):
        json.loads(block)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_blocks_and_in_the_text_exist_with_their_options(page: Path) -> None:
    blocks_of = blocks(page, "sh", "bash", "console", "")
    lines = [line.strip().removeprefix("$ ") for block in blocks_of for line in block.splitlines()]
    lines += re.findall(r"`(forecache [a-z][^`]*)`", page.read_text())
    for line in lines:
        words = re.split(r" [#|>] ", line)[0].split()
        if len(words) > 1 and words[0].rpartition("/")[2] == "forecache":
            require_command(words[1:], line)


CODE = ("forecache", "assets", "jobs", "resources", "dagster_project", "examples", "benchmarks", "scripts", "tests")
OTHERS = ("*.sh", "*.yml", "*.yaml", "*.md", "*.toml", "*.json", "Makefile", "Containerfile*", "*.tpl", "*.txt")


def test_commands_that_the_code_names_exist_with_their_options() -> None:
    """The remedies of messages, the examples of `--help`, and the commands that a process is started with."""
    for file in sorted(path for folder in CODE for path in (PROJECT_ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text())
        for line in [*commands_in_strings(tree), *started_commands(tree)]:
            require_command(line.split()[1:], f"{file.relative_to(PROJECT_ROOT)}: {line}")


def commands_in_strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "VALUE"
            for part in parts
            if isinstance(part, ast.Constant | ast.FormattedValue)
        )
        yield from re.findall(r"`(forecache [a-z][^`]*)`", text)
        if isinstance(node, ast.keyword) and node.arg == "examples":
            texts = [str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
            yield from re.findall(r"^ *(forecache [a-z][^#|>\n]*)", "".join(texts), re.MULTILINE)


def started_commands(tree: ast.AST) -> Iterator[str]:
    """Arguments such as `[python, "-m", "forecache.cli.main", "store", "pull", name]`; only constants are known."""
    for node in ast.walk(tree):
        given = node.elts if isinstance(node, ast.List | ast.Tuple) else node.args if isinstance(node, ast.Call) else []
        words = [str(each.value) if isinstance(each, ast.Constant) else "VALUE" for each in given]
        if "-m" in words and "forecache.cli.main" in words[:-1]:
            arguments = words[words.index("forecache.cli.main") + 1 :]
            if arguments[0] != "VALUE":
                yield " ".join(["forecache", *arguments])


def test_commands_that_scripts_templates_and_deployments_run_exist_with_their_options() -> None:
    files = subprocess.run(
        ["git", "ls-files", "--", *OTHERS], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = 0
    for name in files:
        text = (PROJECT_ROOT / name).read_text()
        lines = re.findall(r"`(forecache [a-z][^`|\n]*)`", text)
        lines += re.findall(r"(?:/|^ *|[;&(] *|\bexec |- )(forecache [a-z][^;&|#)\n\\`]*)", text, re.MULTILINE)
        lines += [re.sub(r"[,\"' ]+", " ", line) for line in re.findall(r"\[(forecache, [a-z][^\]{]*)", text)]
        found += len(lines)
        for line in lines:
            require_command(re.split(r"[\"'$]", line)[0].split()[1:], f"{name}: {line}")
    assert found > 100


def require_command(words: list[str], line: str) -> None:
    """Whether the words are a command and options that it has."""
    command: click.Command = cli
    while (
        isinstance(command, click.Group)
        and words
        and (isinstance(command, DefaultGroup) or not words[0].startswith("-"))
    ):
        context = click.Context(command)
        found = command.get_command(context, words[0])
        if found is None and isinstance(command, DefaultGroup):  # such as `models churn` for `models list churn`
            words, found = [command.default, *words], command.get_command(context, command.default)
        assert found is not None, f"there is no command {words[0]!r}: {line}"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in {*known, "--help"}, f"{command.name} has no option {word}: {line}"


@pytest.mark.parametrize("name", forecache.declare.__all__)
def test_attributes_of_declarations_have_a_line_each_so_that_the_reference_names_them(name: str) -> None:
    text = inspect.getdoc(getattr(forecache.declare, name)) or ""
    attributes = text.partition("Attributes:\n")[2]
    assert re.findall(r"^    \w+(?:, \w+)+: ", attributes, re.MULTILINE) == []


def test_the_readme_stays_short_and_the_declarations_of_the_first_pages_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = PROJECT_ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 120
    [nightly] = blocks(readme, "python")
    names: dict[str, object] = {}
    exec(nightly, names)
    assert getattr(names["returns"], "prediction_table", None) == "predictions_returns"
    tutorial = PROJECT_ROOT / "docs" / "tutorials" / "real-time.md"
    [realtime] = [code for code in blocks(tutorial, "python") if "Realtime(" in code]
    in_the_shop = """
import numpy as np
from forecache.declare import *
from shop.pipelines.recommended import PURCHASES
from shop.pipelines.search import ranker
from shop.pipelines.search import searches as past_searches
from shop.views import HOUSEHOLD_PRODUCT, PRODUCT
"""
    (tmp_path / "search_of_the_tutorial.py").write_text(in_the_shop + realtime)
    monkeypatch.syspath_prepend(PROJECT_ROOT / "examples" / "shop")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("search_of_the_tutorial").search.feature_names == ("bought_before", "popularity")
