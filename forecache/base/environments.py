"""Named environments of a project, in its file `environments.toml`: a table of settings for each.

The settings have their names in lower case. A text may name a variable, `"${DATABASE_PASSWORD}"`, or a file whose
content it is, `"file:/run/secrets/password"`, so that the file holds no secret. Folders are relative to the file. An
environment with `protected = true` is chosen only by who names it: `--env` on the command line, or FORECACHE_SERVICE.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError, SettingsError

FILE = "environments.toml"
LOCAL = "local"
"""Name of what the variables alone say, where no environment is chosen."""
TRIAL_FILE = "trial.json"
"""File in the home of a trial, which is there once the trial is whole."""
TRIAL_LAKE_FILE = "lake.uri"
"""File in the home of a trial whose lake is in a bucket: the URI of the lake."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET_FILE = "file:"  # and not the URI of a file, which begins with file://
_FOLDERS = {
    *("home", "landing", "lake", "store", "store_remote", "trials", "mlflow_artifacts"),
    *("training_checkpoints", "stream_checkpoints", "openlineage_file", "reader_tokens", "request_log_spool"),
    *("spark_jars", "java_home"),
}
_OF_CHOICE = {"env", "service", "environments"}
"""Settings by which an environment is chosen, and which it therefore cannot have."""


@dataclass(frozen=True)
class NamedEnvironment:
    """An environment of the file: the values of its settings, with what their references name in place of them.

    Attributes:
        secrets: The settings whose values come from a variable or a file, which no message shows.
    """

    name: str
    file: Path
    values: Mapping[str, Any]
    secrets: frozenset[str] = frozenset()
    is_protected: bool = False


def require_name(name: str, *, kind: str) -> str:
    """A name of an environment or a trial, which is part of paths; SettingsError if it cannot be one."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be the name of {kind}.",
            remedy="Use up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit first.",
        )
    return name


def find_environments_file(given: str = "") -> Path | None:
    """The file that FORECACHE_ENVIRONMENTS names, else the nearest `environments.toml` from this folder up."""
    if given:
        return Path(given).expanduser().resolve()
    here = Path.cwd()
    return next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)


def list_environments(given: str = "") -> list[str]:
    """The names of the environments, in the order of the file; [] if there is no file."""
    file = find_environments_file(given)
    return [] if file is None else list(_read_file(file))


def read_environment(given: str, name: str, *, known: Mapping[str, Any]) -> NamedEnvironment:
    """Read an environment from the file; `known` are all settings.

    Raises:
        NotFoundError: There is no file, or no such environment in it.
        SettingsError: The file cannot be read, has an unknown setting, or names a variable or file that is missing.
    """
    file = find_environments_file(given)
    if file is None:
        raise NotFoundError(
            f"There is no environment {name!r}: no {FILE} in {Path.cwd()} or above it.",
            remedy=f"Write a table [{name}] into {FILE} beside the project's pyproject.toml.",
        )
    tables = _read_file(file)
    if name not in tables:
        raise NotFoundError(f"{file} has no environment {name!r}.", remedy=f"It has: {', '.join(tables) or 'none'}.")
    table = dict(tables[name])
    is_protected = table.pop("protected", False)
    if not isinstance(is_protected, bool):
        raise SettingsError(f"`protected` of the environment {name!r} in {file} is neither true nor false.")
    for key in table:
        if key not in known or key in _OF_CHOICE:
            close = difflib.get_close_matches(key, [each for each in known if each not in _OF_CHOICE], n=1)
            raise SettingsError(
                f"The environment {name!r} in {file} has a setting {key!r}, which there is not.",
                remedy=f"Did you mean {close[0]!r}?" if close else "`forecache settings --all` lists the settings.",
            )
    values = {
        key: _resolve(value, file, f"{key!r} of the environment {name!r} in {file}") for key, value in table.items()
    }
    secrets = frozenset(key for key, value in table.items() if value != values[key])
    anchored = {key: _anchor(key, value, file.parent) for key, value in values.items()}
    return NamedEnvironment(name, file, anchored, secrets, is_protected)


def _read_file(file: Path) -> dict[str, dict[str, Any]]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise SettingsError(f"FORECACHE_ENVIRONMENTS is {str(file)!r}, and there is no such file.") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(
                f"{file} has {name!r} outside a table.", remedy="Each environment is a table: [staging]."
            )
        require_name(name, kind=f"an environment, as in {file}")
    return tables


def _resolve(value: Any, file: Path, what: str) -> Any:
    """A value with the variables and files that it names in place of their names."""
    if isinstance(value, dict):
        return {key: _resolve(each, file, what) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    if value.startswith(_SECRET_FILE) and not value.startswith(f"{_SECRET_FILE}//"):
        path = file.parent / Path(value.removeprefix(_SECRET_FILE)).expanduser()
        try:
            return path.read_text().strip()
        except OSError as error:
            raise SettingsError(f"{what} names the file {path}, which cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{what} names the file {path}, which is no text in UTF-8.") from None
    for name in _VARIABLE.findall(value):
        if name not in os.environ:
            raise SettingsError(f"{what} names the variable {name}, which is not set.", remedy=f"Set {name}.")
    return _VARIABLE.sub(lambda found: os.environ[found[1]], value)


def _anchor(key: str, value: Any, folder: Path) -> Any:
    """A folder or file that is relative to the environments' file, as an absolute path."""
    if key not in _FOLDERS or not isinstance(value, str) or not value or "://" in value:
        return value
    return str(folder / Path(value).expanduser())


def read_trial_lake(home: Path) -> str:
    """The URI of the lake of the trial, or of the draft of one, with this home; "" if the lake is in the home."""
    try:
        return (home / TRIAL_LAKE_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


TRIAL_VALUES: Mapping[str, Any] = {
    **dict.fromkeys(("lake", "store", "store_remote", "trials", "redis_url"), ""),
    **dict.fromkeys(("mlflow_uri", "mlflow_artifacts", "training_checkpoints", "stream_checkpoints"), ""),
    **dict.fromkeys(("smtp_host", "smtp_user", "smtp_password"), ""),
    **dict.fromkeys(("alert_webhook", "alert_webhook_token", "alert_slack", "alert_alertmanager", "alert_email"), ""),
    **dict.fromkeys(("openlineage_url", "openlineage_api_key", "openlineage_file"), ""),
    **dict.fromkeys(("reader_public_url", "dagster_public_url", "mlflow_public_url"), ""),
    **dict.fromkeys(("kafka_brokers", "dagster_uri", "service"), ""),
    **dict.fromkeys(("kafka_options", "dagster_launcher"), {}),
    "request_log_spool": None,
    "stream_keep_running": False,
    "schedules": "off",
}
"""Values of a trial's settings in place of those of the environment that it defers to.

What it writes is its own, in its home; nothing is left by which it could send, publish to others, or move what a stream
has read.
"""
