"""The settings and versions of this installation: `settings`, `version`."""

import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from forecache.base.errors import SettingsError
from forecache.base.settings import PREFIX, Settings, given_variables
from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show, show_rows, show_table, wants_json
from forecache.kit.process.wakes import WAKES

HIDDEN = "***"


def hide_secrets(value: Any) -> Any:
    """The value with possible secrets hidden: object store options, and passwords in URLs."""
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}"
    return value


def setting_rows(current: Settings | None) -> list[dict[str, Any]]:
    """Every setting: variable, value, default, source, accepted values, description.

    `source` is "environment", ".env", "default", or the part of the file of environments. Without `current` (a setting
    is invalid) values are as written.
    """
    from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource
    from pydantic_settings.exceptions import SettingsError as Unreadable

    try:
        given = ((".env", DotEnvSettingsSource(Settings)()), ("environment", EnvSettingsSource(Settings)()))
    except Unreadable:  # one is not JSON: show all as they are written
        written = {name.removeprefix(PREFIX).lower(): text for name, text in given_variables().items()}
        given = ((".env", {}), ("environment", written))
    chosen = None if current is None else current.named_environment
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        source, value = "default", default
        for place, values in given:
            if name in values:
                source, value = place, values[name]
        if current is not None:
            value = getattr(current, name)
        if chosen is not None and name in chosen.values:
            source = f"{chosen.file.name} [{chosen.name}]"
        elif value != default and source == "default":
            source = "--env"
        rows.append(
            {
                "variable": f"FORECACHE_{name.upper()}",
                "value": hide_secrets(value) if field.repr or isinstance(value, dict) else HIDDEN,
                "default": default,
                "source": source,
                "takes": _describe_accepted(field),
                "description": field.description or "",
            }
        )
    return rows


def _describe_accepted(field: Any) -> str:
    """The accepted values of a setting in words, such as "integer from 1"."""
    kind = field.annotation
    if type(None) in getattr(kind, "__args__", ()):
        kind = kind.__args__[0]
    names = {
        "int": "integer",
        "float": "number",
        "str": "text",
        "Path": "path",
        "dict": "JSON object",
        "bool": "true or false",
    }
    choices = getattr(kind, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    origin = getattr(kind, "__origin__", kind)
    text = names.get(getattr(origin, "__name__", ""), "path" if "Path" in str(kind) else str(kind))
    for limit in field.metadata:
        for attribute, words in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
            if (bound := getattr(limit, attribute, None)) is not None:
                text += f" {words} {bound}"
    return text


def _format_value(value: Any) -> str:
    return "" if value in ("", None) or value == {} else str(value)


@command(
    "settings",
    examples="""
    forecache settings
    forecache settings --all
    FORECACHE_SPARK_MASTER='local[4]' forecache settings --json
    forecache settings --wakes
    """,
)
@click.option("--all", "shows_all", is_flag=True, help="Show defaults, too.")
@click.option("--markdown", is_flag=True, help="Print the table of variables and defaults for a document.")
@click.option("--wakes", is_flag=True, help="Show instead what wakes periodically, in which process, and how often.")
def show_settings(shows_all: bool, markdown: bool, wakes: bool) -> None:
    """Show the settings that are given, with their sources; an invalid one is shown, too, and the exit code is 2."""
    if wakes:
        _show_wakes()
        return
    current, wrong = None, None
    try:
        current = settings()
    except SettingsError as error:
        wrong = SettingsError(error.message, remedy="The column `takes` shows the accepted values.")
    rows = setting_rows(current)
    if wants_json():
        print_json(rows)
    elif markdown:
        _print_markdown(rows)
    else:
        shown = [row for row in rows if shows_all or row["source"] != "default"]
        others = "" if shows_all else f"{len(rows) - len(shown)} others have their defaults (--all). "
        show_table(
            ("variable", "value", "from", "takes", "what it is"),
            [
                (row["variable"], _format_value(row["value"]), row["source"], row["takes"], row["description"])
                for row in shown
            ],
            caption=f"{others}{f'State folder: {current.home_path}' if current else ''}".strip(),
        )
    if wrong is not None:
        raise wrong


def _show_wakes() -> None:
    rows = [{"process": each.process, "period": each.period, "purpose": each.purpose} for each in WAKES]
    show_rows(rows, ("process", "period", "what it does"), [tuple(row.values()) for row in rows])


def _print_markdown(rows: list[dict[str, Any]]) -> None:
    click.echo("| Variable | Default | Takes | Meaning |\n| --- | --- | --- | --- |")
    for row in rows:
        default = _format_value(_portable_default(row["default"]))
        shown = f"`{default}`" if default else ""
        takes = "" if row["takes"] == "text" else row["takes"].replace(" | ", ", ")
        click.echo(f"| `{row['variable']}` | {shown} | {takes} | {row['description']} |")


def _portable_default(default: Any) -> Any:
    """A default without the folder of this installation."""
    from forecache.base.settings import PROJECT_ROOT

    return str(default).replace(f"{PROJECT_ROOT}/", "") if isinstance(default, Path) else default


@command("version", examples="forecache version\nforecache version --json")
def version() -> None:
    """Show the versions of Forecache and of the software that it runs on."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from forecache.base.code_version import code_version

    libraries = ("pyspark", "delta-spark", "deltalake", "dagster", "mlflow", "torch", "onnxruntime", "lmdb")
    found = {
        "forecache": version_of("forecache"),
        "code": code_version(settings()),
        "python": platform.python_version(),
    }
    for name in libraries:
        with suppress(PackageNotFoundError):  # of an extra that is not installed
            found[name] = version_of(name)
    show(found, "\n".join(f"{name:<12} {text}" for name, text in found.items()))
