"""`forecache init`: a new project from a template, which installs from its folder alone."""

import re
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

import click

from forecache.base.errors import InputError
from forecache.cli.base import command
from forecache.cli.output import print_json, wants_json


@dataclass(frozen=True)
class Template:
    """A kind of project: what it shows, the extras of Forecache that it needs, and the file to edit."""

    about: str
    extras: str
    declares: str


TEMPLATES = {
    "batch": Template("a model on declared windows, scored every night", "local", "returns"),
    "sql": Template("the same with features in SQL", "local", "returns"),
    "realtime": Template("a model that is asked within a deadline, with fallbacks", "local,realtime", "offer"),
    "recommend": Template("lists of items for each customer", "local,recommend", "recommended"),
    "stream": Template("features up to this moment, from a Kafka topic", "local,stream", "activity"),
    "registered": Template("a model that others have registered in MLflow", "local", "returns"),
}
_FOLDER = Path(__file__).with_name("templates")
_PACKAGE, _DISTRIBUTION = "new_project", "new-project"
_START, _NUM_DAYS = "date(2026, 1, 1)", 60


@command(
    "init",
    examples="""
    forecache init shop
    forecache init shop --template recommend
    forecache init ~/shop-models --package shop
    """,
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--template",
    "kind",
    type=click.Choice(list(TEMPLATES)),
    help="Kind of project; default: a terminal is asked, otherwise batch.",
)
@click.option("--package", help="Name of the project's Python package; default: the folder's name.")
def init(folder: Path, kind: str | None, package: str | None) -> None:
    """Create a project in DIR, a new or empty folder: declarations to edit, made-up data, tests, a Makefile, a CI file.

    `make demo` in the project runs it from landing files to a served answer. Its pyproject.toml says what it needs, so
    that others and CI install it from its folder.
    """
    if kind is None:
        kind = _ask_kind() if sys.stdin.isatty() and not wants_json() else "batch"
    name = package or re.sub(r"\W", "_", folder.resolve().name)
    files = make_project(folder, name, kind)
    if wants_json():
        print_json({"folder": folder.resolve(), "package": name, "template": kind, "files": files})
        return
    click.echo(f"A project is in {folder}. What next:")
    for what, why in (
        (f"cd {folder}", ""),
        ("less README.md", "what it shows, step by step"),
        ("make demo", "run it, from landing files to a served answer"),
        ("make test", "run its tests"),
        (f"edit {name}/pipelines/{TEMPLATES[kind].declares}.py", "make it yours"),
    ):
        click.echo(f"  {what:<36}{why}".rstrip())


def _ask_kind() -> str:
    click.echo("Kinds of projects:", err=True)
    for name, template in TEMPLATES.items():
        click.echo(f"  {name:<12}{template.about}", err=True)
    kind: str = click.prompt("Kind", type=click.Choice(list(TEMPLATES)), default="batch", show_choices=False, err=True)
    return kind


def make_project(folder: Path, package: str, kind: str = "batch") -> list[str]:
    """Write the files of a template for a package of this name; returns their paths in the folder.

    Run again after an interruption, on the same day, it writes the missing files.

    Raises:
        InputError: The folder has other files in it, or a package cannot have the name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package) or package == "tests" or iskeyword(package):
        raise InputError(
            f"A project's package cannot be named {package!r}.",
            remedy="Give --package with lower-case letters, digits and _, such as --package shop.",
        )
    files = _template_files(package, kind)
    for path in folder.rglob("*"):
        content = files.get(str(path.relative_to(folder)))
        if path.is_file() and not (
            content and content.startswith(path.read_bytes())
        ):  # an interrupted init can leave the start of a file
            raise InputError(f"The folder {folder} is not empty.", remedy="Name a new or an empty folder.")
    taken = find_spec(package)
    if taken and taken.origin and not taken.origin.startswith(f"{folder.resolve()}/"):  # without __init__.py: no origin
        raise InputError(f"There is a Python package {package!r} already.", remedy="Give another name with --package.")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return list(files)


def _template_files(package: str, kind: str) -> dict[str, bytes]:
    """The files of a template for a package of this name, by path in the project.

    A template's files stand beside those that all templates have, or in place of them; its README.md before theirs.
    """
    files = _read_texts(_FOLDER / "common")
    for path, text in _read_texts(_FOLDER / kind).items():
        files[path] = text + files[path] if path == "README.md" else text
    first = datetime.now(timezone.utc).date() - timedelta(days=_NUM_DAYS)
    written = {
        _PACKAGE: package,
        _DISTRIBUTION: package.replace("_", "-"),
        "@EXTRAS@": TEMPLATES[kind].extras,
        "@VERSION@": version("forecache"),
        _START: repr(first).removeprefix("datetime."),
    }
    for before, now in written.items():
        files = {path.replace(before, now): text.replace(before, now) for path, text in files.items()}
    return {path: text.encode() for path, text in sorted(files.items())}


def _read_texts(folder: Path) -> dict[str, str]:
    """The texts of a folder's files by their paths, in which `dot_` stands for a dot."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {
        str(Path(*(re.sub("^dot_", ".", part) for part in path.relative_to(folder).parts))): path.read_text()
        for path in paths
    }
