"""`forecache init`: a new project with one pipeline to edit, its tests, a Makefile and a CI file."""

import re
import sys
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

import click

from forecache.base.errors import InputError
from forecache.cli.base import command
from forecache.cli.output import print_json, wants_json

TEMPLATE = Path(__file__).with_name("template")
_PACKAGE = "new_project"
_BIN = "@BIN@"


@command("init", examples="forecache init shop\nforecache init ~/shop-models --package shop")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--package", help="Name of the project's Python package; default: the folder's name.")
def init(folder: Path, package: str | None) -> None:
    """Create a project in DIR, a new or empty folder: one pipeline to edit, its tests, a Makefile, a CI file.

    `make demo` in the project runs it from landing files to a served answer, on generated data.
    """
    name = package or re.sub(r"\W", "_", folder.resolve().name)
    files = make_project(folder, name)
    if wants_json():
        print_json({"folder": folder.resolve(), "package": name, "files": files})
        return
    click.echo(f"A project is in {folder}. What next:")
    for what, why in (
        (f"cd {folder}", ""),
        ("make demo", "run it, from landing files to a served answer"),
        ("make test", "test the pipeline's SQL"),
        (f"edit {name}/pipelines/returns.py", "make it yours"),
    ):
        click.echo(f"  {what:<36}{why}".rstrip())


def make_project(folder: Path, package: str) -> list[str]:
    """Write the template's files for a package of this name; returns their paths in the folder.

    Run again after an interruption, it writes the missing files.

    Raises:
        InputError: The folder has other files in it, or a package cannot have the name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package) or package == "tests" or iskeyword(package):
        raise InputError(
            f"A project's package cannot be named {package!r}.",
            remedy="Give --package with lower-case letters, digits and _, such as --package shop.",
        )
    files = _template_files(package)
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


def _template_files(package: str) -> dict[str, bytes]:
    """The template's files for a package of this name, by path in the project."""
    files = {}
    for source in sorted(path for path in TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        parts = source.relative_to(TEMPLATE).parts
        path = Path(*(re.sub("^dot_", ".", part).replace(_PACKAGE, package) for part in parts))
        text = source.read_text().replace(_PACKAGE, package).replace(_BIN, str(Path(sys.executable).parent))
        files[str(path)] = text.encode()
    return files
