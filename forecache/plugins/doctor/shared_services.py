"""Checks of the services that machines share besides the lake: that they are set, and that they answer."""

import urllib.error
import urllib.request
from http.client import HTTPException
from importlib.util import find_spec
from urllib.parse import urlsplit

from forecache.base.errors import UnavailableError
from forecache.base.folders import SCHEMES, open_folder
from forecache.base.settings import Settings
from forecache.cli.base import Finding
from forecache.kit.explain_errors import explain_error

_PATIENCE_S = 10
_DATABASES = ("postgresql", "mysql", "mssql")


def check_machines(settings: Settings) -> Finding:
    """Name what lies on one machine alone while the lake is in a bucket, which several machines may share."""
    if not settings.lake_is_remote:
        return Finding("machines", "ok", "the lake is in a folder, and everything else in the home")
    needed = {"FORECACHE_STORE_REMOTE": settings.store_remote, "FORECACHE_MLFLOW_URI": settings.mlflow_uri}
    if not settings.mlflow_uri.startswith("http"):  # a server of MLflow knows its place for artifacts
        needed["FORECACHE_MLFLOW_ARTIFACTS"] = settings.mlflow_artifacts
    needed["FORECACHE_DAGSTER_URI"] = settings.dagster_uri
    missing = [name for name, value in needed.items() if not value]
    if not missing:
        return Finding("machines", "ok", "all may have empty disks")
    found = f"not set, so that it lies on this machine alone: {', '.join(missing)}"
    return Finding("machines", "warn", found, "Set it before a second machine, or an empty disk, is used.")


def check_mlflow_server(settings: Settings) -> Finding:
    """Connect to the database or the server of MLflow, and look into its bucket for artifacts."""
    uri = settings.mlflow_tracking_uri
    scheme = urlsplit(uri).scheme
    is_server, is_database = scheme in ("http", "https"), scheme.partition("+")[0] in _DATABASES
    if is_server:
        _request(uri)
    elif is_database:
        _connect(uri, setting="FORECACHE_MLFLOW_URI")
    if settings.mlflow_artifacts.partition("://")[0] in SCHEMES:
        place, options = settings.mlflow_artifacts, settings.storage_options
        open_folder(place, options, setting="FORECACHE_MLFLOW_ARTIFACTS", patience_s=_PATIENCE_S).folders()
    said = f"{_place(uri)} answers" if is_server or is_database else f"{scheme or 'a folder'}, which is not asked here"
    return Finding("mlflow", "ok", said)


def check_dagster(settings: Settings) -> Finding:
    """Connect to the database of Dagster."""
    uri = settings.dagster_database
    if not uri:
        return Finding("dagster", "ok", f"SQLite in {settings.dagster_home}")
    _connect(uri, setting="FORECACHE_DAGSTER_URI")
    return Finding("dagster", "ok", f"{_place(uri)} answers")


def check_streams(settings: Settings) -> Finding:
    """Look whether Kafka answers and has the topics of the declared streams."""
    from forecache.declare.loading import read_project
    from forecache.stream.kafka.client import find_topics

    streams = read_project(settings).streams
    if not streams:
        return Finding("streams", "ok", "none is declared")
    if find_spec("confluent_kafka") is None:
        return Finding("streams", "warn", "confluent-kafka is not installed", "pip install 'forecache[stream]'.")
    try:
        topics = find_topics(settings, timeout_s=_PATIENCE_S)
    except UnavailableError as error:
        return Finding("streams", "warn", error.message, error.remedy)
    missing = {stream.name: stream.topic.topic for stream in streams.values() if stream.topic.topic not in topics}
    if missing:
        found = "; ".join(f"{name} reads the topic {topic}, which is not there" for name, topic in missing.items())
        return Finding("streams", "warn", found, f"Run `forecache stream {next(iter(missing))} --create-topic`.")
    return Finding("streams", "ok", f"{', '.join(streams)}: the topics are at {settings.kafka_brokers}")


def _place(uri: str) -> str:
    """Host, port and path of a URL: its user, password and options are not for a report."""
    parts = urlsplit(uri)
    address = parts.netloc.rpartition("@")[2]
    try:
        is_whole = parts.port is None or "@" not in parts.path
    except ValueError:  # a password with a "/" that should be written as %2F ends the address
        is_whole = False
    return f"{address}{parts.path}" if is_whole else f"{parts.scheme}://..."


def _connect(uri: str, *, setting: str) -> None:
    try:
        from sqlalchemy import create_engine

        timeout = {"connect_timeout": _PATIENCE_S} if uri.startswith("postgresql") else {}
        engine = create_engine(uri, connect_args=timeout)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except Exception as error:  # of SQLAlchemy, or of the driver that it loads
        known = explain_error(error)
        if isinstance(known, UnavailableError):
            raise known from error
        # An error about the URL may quote a part of it.
        cause = "the URL is not valid" if isinstance(error, ValueError) else str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"The database {_place(uri)} of {setting} cannot be used: {cause.rstrip('.')}.",
            remedy="Create it, or set the right host, user and password.",
        ) from error


def _request(uri: str) -> None:
    place = _place(uri)
    try:
        urllib.request.urlopen(f"{urlsplit(uri).scheme}://{place.rstrip('/')}/health", timeout=_PATIENCE_S).close()
    except urllib.error.HTTPError:
        return  # it answers, such as that it wants a password
    except (OSError, ValueError, HTTPException) as error:
        raise UnavailableError(
            f"The MLflow server {place} cannot be reached: {error}.", remedy="Start it, or set FORECACHE_MLFLOW_URI."
        ) from error
