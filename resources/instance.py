"""The Dagster instance under the home folder: SQLite or PostgreSQL, no telemetry, tables created before first use.

Dagster creates the tables of a new instance when it is opened, and two processes that do so at once fail. A lock lets
only one process at a time open it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import SettingsError
from forecache.base.files import lock, write_durably
from forecache.base.settings import Settings
from forecache.declare.loading import import_from_project

if TYPE_CHECKING:
    from dagster import DagsterInstance


LOCATION = "forecache"
_TEMPLATE = Path(__file__).with_name("dagster.yaml")
_RUNNER_CONFIG = "runner.yaml"
_OPENED = "opened"
"""A file that exists once the instance was opened, and its tables with it."""

_SQLITE_STORAGE = """# SQLite, in batches: a range of nights records thousands of events.
event_log_storage:
  module: resources.event_log
  class: BatchedSqliteEventLogStorage
  config:
    base_dir: $home/history/runs
"""
# Without its URL, which holds a password: each process reads the setting.
_POSTGRES_STORAGE = """storage:
  custom:
    module: resources.postgres
    class: PostgresStorage
    config: {}
"""

_CONCURRENCY = """concurrency:
  runs:
    max_concurrent_runs: {runs}
"""
# A pool has one place, unless `dagster instance concurrency set` says otherwise. A run whose process was lost is run
# again from the steps that it did not end; steps try again by themselves.
_CLUSTER_CONCURRENCY = """  pools:
    default_limit: 1
    granularity: op
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
"""
_LAUNCHER = {"module": "resources.own_runs", "class": "LocalRunLauncher"}
SPARK_POOL = "spark"
"""Pool of steps that use Spark; as many at once as runs, unless it was set otherwise."""
TRAINING_POOL = "training"
TUNING_POOL = "tuning"
_OWN_LIMIT = "forecache spark pool limit"
"""Cursor with the limit that Forecache has set for the pool of Spark; two numbers while it changes it."""

_BUCKET_ADDITION = """
compute_logs:
  module: resources.lake_logs
  class: LakeLogManager
  config: {}
"""
# Dagster takes the file descriptors of standard output for its logs; the command line draws its progress there.
_RUNNER_ADDITION = """
compute_logs:
  module: resources.dagster_internals
  class: NoOpComputeLogManager
"""
_WORKSPACE = """# What Dagster loads, for `-w` of its commands. Forecache writes this file.
load_from:
  - python_module:
      module_name: {module}
      location_name: {location}
"""

_SERVED_WORKSPACE = """# The code location that `forecache dagster code` serves. Forecache writes this file.
load_from:
  - grpc_server:
      host: {host}
      port: {port}
      location_name: {location}
"""


def ensure_instance(settings: Settings) -> Path:
    """Write the instance's configuration and the workspace if they are missing or old; returns DAGSTER_HOME.

    The configuration is the project's `dagster.yaml` if it has one, else the one beside this module.

    Raises:
        SettingsError: The project package cannot be imported, or its `dagster.yaml` leaves FORECACHE_DAGSTER_URI out.
        OSError: The home folder cannot be written.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    own = Path(import_from_project(settings, settings.project).__path__[0], _TEMPLATE.name)
    template = own if own.is_file() else _TEMPLATE
    text = template.read_text()
    if settings.dagster_uri and "$storage" not in text:
        raise SettingsError(
            f"FORECACHE_DAGSTER_URI is set, and {template} does not take it.",
            remedy="Write the line $storage in the place of its storage, or unset FORECACHE_DAGSTER_URI.",
        )
    is_shared = bool(settings.dagster_uri)
    concurrency = _CONCURRENCY.format(runs=settings.dagster_runs or (3 if is_shared else 1))
    launcher = json.dumps(settings.dagster_launcher or _LAUNCHER)
    text = text.replace("$storage\n", _POSTGRES_STORAGE if is_shared else _SQLITE_STORAGE)
    text = text.replace("$concurrency\n", concurrency + (_CLUSTER_CONCURRENCY if is_shared else ""))
    text = text.replace("$launcher\n", f"{launcher}\n").replace("$home", str(home))
    files = {
        "dagster.yaml": text + (_BUCKET_ADDITION if settings.lake_is_remote and "compute_logs:" not in text else ""),
        _RUNNER_CONFIG: text + _RUNNER_ADDITION,
        "workspace.yaml": _WORKSPACE.format(module=definitions_module(settings), location=LOCATION),
    }
    for name, content in files.items():
        path = home / name
        if not path.exists() or path.read_text() != content:
            write_durably(path, content)
    return home


def definitions_module(settings: Settings) -> str:
    """The module that Dagster loads: the project's `definitions` if it has one, else `jobs.definitions`."""
    import_from_project(settings, settings.project)
    own = f"{settings.project}.definitions"
    return own if find_spec(own) else "jobs.definitions"


@contextmanager
def runner_instance(settings: Settings) -> Iterator["DagsterInstance"]:
    """Open the instance for runs inside this process, whose output stays on the terminal."""
    with _open_instance(ensure_instance(settings)) as instance:
        yield instance


def prepare_tables(home: Path) -> None:
    """Let Dagster create the tables of an instance, before Dagster's own processes open it."""
    if not (home / _OPENED).exists():
        with _open_instance(home):
            pass


def upgrade_tables(home: Path) -> None:
    """Create the tables of an instance, or change those of an earlier Dagster to what this one expects."""
    with _open_instance(home) as instance:
        instance.upgrade()


def write_workspace(home: Path, address: str) -> Path:
    """Write a workspace whose code location is served at an address, HOST:PORT; returns its path."""
    host, _, port = address.rpartition(":")
    path = home / "workspace-served.yaml"
    write_durably(path, _SERVED_WORKSPACE.format(host=host, port=port, location=LOCATION))
    return path


def _open_instance(home: Path) -> "DagsterInstance":
    from dagster import DagsterInstance

    with lock(home / f"{_OPENED}.lock"):
        instance = DagsterInstance.from_config(str(home), config_filename=_RUNNER_CONFIG)
        _require_driver(instance)
        _limit_pools(instance)
        (home / _OPENED).touch()
    return instance


def _require_driver(instance: "DagsterInstance") -> None:
    """Refuse a PostgreSQL storage of a project's own `dagster.yaml` whose runs would fail at their first event."""
    engine = getattr(instance.event_log_storage, "_engine", None)
    if engine is not None and engine.dialect.name == "postgresql" and engine.dialect.driver != "psycopg2":
        instance.dispose()
        raise SettingsError(
            f"The project's {_TEMPLATE.name} stores with {engine.dialect.driver}; Dagster's events need psycopg2.",
            remedy="Write its URL as postgresql+psycopg2://..., or the line $storage with FORECACHE_DAGSTER_URI set.",
        )


def _limit_pools(instance: "DagsterInstance") -> None:
    """Give the pool of Spark as many places as there may be runs, unless somebody else has set its limit."""
    from sqlalchemy.exc import IntegrityError

    storage, config = instance.event_log_storage, instance.get_concurrency_config()
    if config.pool_config.default_pool_limit is None or config.run_queue_config is None:
        return
    runs, cursors = config.run_queue_config.max_concurrent_runs, instance.daemon_cursor_storage
    limits = {pool.name: pool.limit for pool in storage.get_pool_limits() if not pool.from_default}
    limit = limits.get(SPARK_POOL)
    own = cursors.get_cursor_values({_OWN_LIMIT}).get(_OWN_LIMIT, "").split()
    if limit is not None and (limit == runs or str(limit) not in own):
        return
    with suppress(IntegrityError):  # another machine does so at this moment
        cursors.set_cursor_values({_OWN_LIMIT: f"{limit or ''} {runs}"})
        storage.set_concurrency_slots(SPARK_POOL, runs)
        cursors.set_cursor_values({_OWN_LIMIT: str(runs)})


def job_names_by_run(settings: Settings) -> dict[str, str]:
    """Names of jobs by run id, of all runs of the installation's Dagster instance."""
    with runner_instance(settings) as instance:
        return {run.run_id: run.job_name for run in instance.get_runs()}
