"""MLflow's records of models, read without MLflow, whose import takes seconds: versions, aliases, parameters, places.

They are read from a database by SQL if its tables are of a known revision, and from a server that needs no credentials
by its REST API. The answer is that of MLflow's client, or None: then the client has to be asked.
"""

import json
import os
import sqlite3
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.models.tracking.client import artifact_root, is_database_ready

REVISIONS = ("dc11669786a5",)
"""Revisions of MLflow's tables that the statements below are written for: that of MLflow 3.17."""
_MOST = 1000
"""Most versions that MLflow's client returns at once."""
_TIMEOUT_S = 10.0
_OF_CLIENT = ("MLFLOW_TRACKING_", "MLFLOW_WORKSPACE", "MLFLOW_ENABLE_WORKSPACES", "DATABRICKS_")
"""Beginnings of the variables by which MLflow's client reaches a server in another way, or sees other models."""


@dataclass(frozen=True)
class VersionRecord:
    """A version of a model, with the names of MLflow's `ModelVersion`."""

    name: str
    version: int
    creation_timestamp: int  # milliseconds since 1970
    run_id: str | None
    location: str  # of its files
    aliases: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)


def find_versions(settings: Settings, name: str) -> list[VersionRecord] | None:
    """The versions of a registered model, at most 1,000, those changed last first; [] if there is no such model."""
    if settings.mlflow_tracking_uri.startswith("http"):
        return _ask_server(settings.mlflow_tracking_uri, name)
    if _is_nothing_registered(settings):
        return []
    found = _select(
        settings,
        (
            "select name, version, creation_time, run_id, coalesce(nullif(storage_location, ''), source, '') "
            "from model_versions where workspace = 'default' and name = ? and current_stage <> 'Deleted_Internal' "
            f"order by last_updated_time desc, version desc limit {_MOST}",
            name,
        ),
        ("select version, alias from registered_model_aliases where workspace = 'default' and name = ?", name),
        ("select version, key, value from model_version_tags where workspace = 'default' and name = ?", name),
    )
    if found is None:
        return None
    aliases: dict[int, list[str]] = defaultdict(list)
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for version, alias in found[1]:
        aliases[version].append(alias)
    for version, key, value in found[2]:
        tags[version][key] = value
    return [
        VersionRecord(model, number, created, run, location, aliases[number], tags[number])
        for model, number, created, run, location in found[0]
    ]


def find_version(settings: Settings, name: str, *, alias: str = "", number: int = 0) -> VersionRecord | None:
    """One version by alias or number; None also if there is none, as MLflow's client says what is missing."""
    for version in find_versions(settings, name) or ():
        if alias in version.aliases if alias else version.version == number:
            return version
    return None


def find_model_folder(settings: Settings, name: str, number: int) -> Path | None:
    """The folder of a version's files, if it is on this machine."""
    found = None if settings.mlflow_tracking_uri.startswith("http") else find_version(settings, name, number=number)
    return None if found is None else local_folder(found.location)


def find_run_parameters(settings: Settings, run_id: str) -> dict[str, str] | None:
    """The parameters of a run; None also if there is no such run, as MLflow's client says what is wrong."""
    if settings.mlflow_tracking_uri.startswith("http"):
        return _ask_parameters(settings.mlflow_tracking_uri, run_id)
    found = _select(
        settings,
        ("select key, value from params where run_uuid = ?", run_id),
        ("select 1 from runs where run_uuid = ?", run_id),
    )
    return dict(found[0]) if found is not None and found[1] else None


def find_run_folder(settings: Settings, run_id: str) -> Path | None:
    """The folder of a run's artifacts, if it is on this machine."""
    found = _select(settings, ("select artifact_uri from runs where run_uuid = ?", run_id))
    return local_folder(found[0][0][0]) if found is not None and found[0] else None


def find_run_file(settings: Settings, run_id: str, name: str) -> Path | None:
    """A file among the artifacts of a run, if it is on this machine."""
    folder = find_run_folder(settings, run_id)
    return folder / name if folder is not None and (folder / name).is_file() else None


def local_folder(uri: str) -> Path | None:
    """The folder that a path or a file URI means, if it is there."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc or parts.query or parts.fragment:
        return None
    path = Path(urllib.parse.unquote(parts.path) if parts.scheme else uri)
    return path if path.is_absolute() and path.is_dir() else None


def _is_nothing_registered(settings: Settings) -> bool:
    """True if there is no database yet: MLflow's client would create one, which takes seconds, and find it empty."""
    scheme, _, path = settings.mlflow_tracking_uri.partition(":///")
    return scheme == "sqlite" and not _has_own_settings() and not Path(path).exists()


def _has_own_settings() -> bool:
    return any(name.startswith(_OF_CLIENT) and name != "MLFLOW_TRACKING_URI" for name in os.environ)


def _select(settings: Settings, *statements: tuple[str, str]) -> list[list[tuple[Any, ...]]] | None:
    """The rows of statements with an argument each; None unless the database is there and of a known revision."""
    if _has_own_settings():
        return None
    try:
        return _read(settings, statements)
    except Exception:  # noqa: BLE001  (of any driver; MLflow's client says what is wrong)
        return None


def read_database(settings: Settings, statements: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    """The rows of statements at one state of MLflow's database, also if its home was moved since it was used last.

    UnavailableError if it is of another revision than the statements are written for.
    """
    found = _read(settings, [(statement, None) for statement in statements], is_moved=True)
    if found is None:
        raise UnavailableError(
            "The tables of MLflow's database are not those of this version of MLflow.",
            remedy="`forecache migrate` upgrades them.",
        )
    return found


def _read(
    settings: Settings, statements: Sequence[tuple[str, str | None]], *, is_moved: bool = False
) -> list[list[tuple[Any, ...]]] | None:
    connection, mark = _connect(settings, is_moved=is_moved)
    if connection is None:
        return None
    with closing(connection):
        cursor = connection.cursor()
        cursor.execute("begin" if mark == "?" else "set transaction isolation level repeatable read read only")
        cursor.execute("select version_num from alembic_version")
        if cursor.fetchall() not in [[(revision,)] for revision in REVISIONS]:
            return None
        # MLflow refuses a database that also has models of other workspaces.
        cursor.execute("select 1 from registered_models where workspace <> 'default' limit 1")
        if cursor.fetchall():
            return None
        found = []
        for statement, argument in statements:
            cursor.execute(statement.replace("?", mark), () if argument is None else (argument,))
            found.append(cursor.fetchall())
        return found


def _connect(settings: Settings, *, is_moved: bool) -> tuple[Any, str]:
    """A connection for reading, and the mark of an argument in its statements; no connection if it is no database."""
    uri = settings.mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        is_ready = is_moved or is_database_ready(path, artifact_root(settings))
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60) if is_ready else None, "?"
    scheme, _, rest = uri.partition("://")
    if scheme == "postgresql+psycopg2":
        import psycopg2  # type: ignore[import-untyped]

        return psycopg2.connect(f"postgresql://{rest}"), "%s"
    if scheme in ("postgresql", "postgresql+psycopg"):
        import psycopg

        return psycopg.connect(f"postgresql://{rest}"), "%s"
    return None, ""


def _ask_server(uri: str, name: str) -> list[VersionRecord] | None:
    """The versions by REST; None if the server does not answer as one that needs no credentials does."""
    if not _is_open(uri):
        return None
    try:
        query = {"filter": f"name='{name}'", "max_results": _MOST}
        found = _get(uri, "model-versions/search", query).get("model_versions", [])
        model = _get(uri, "registered-models/get", {"name": name})["registered_model"] if found else {}
    except (OSError, ValueError, KeyError):
        return None
    aliases: dict[int, list[str]] = defaultdict(list)
    for each in model.get("aliases", ()):
        aliases[int(each["version"])].append(each["alias"])
    return [
        VersionRecord(
            each["name"],
            int(each["version"]),
            int(each["creation_timestamp"]),
            each.get("run_id"),
            each.get("source", ""),
            aliases[int(each["version"])],
            {tag["key"]: tag.get("value", "") for tag in each.get("tags", ())},
        )
        for each in found
    ]


def _ask_parameters(uri: str, run_id: str) -> dict[str, str] | None:
    """The parameters of a run by REST; None as of `_ask_server`."""
    if not _is_open(uri):
        return None
    try:
        found = _get(uri, "runs/get", {"run_id": run_id})["run"]["data"].get("params", ())
    except (OSError, ValueError, KeyError):
        return None
    return {each["key"]: each.get("value", "") for each in found}


def _is_open(uri: str) -> bool:
    """True for a server that MLflow's client would ask without credentials."""
    return not (_has_own_settings() or "@" in urllib.parse.urlsplit(uri).netloc or _has_credentials())


def _has_credentials() -> bool:
    """Tell if there are files from which MLflow's client takes credentials for servers."""
    return any((Path.home() / name).exists() for name in (".mlflow/credentials", ".netrc", ".databrickscfg"))


def _get(uri: str, path: str, query: dict[str, Any]) -> dict[str, Any]:
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
