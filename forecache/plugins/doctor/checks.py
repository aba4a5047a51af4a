"""The checks of `forecache doctor`: each is a function that returns one finding."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.errors import ForecacheError, NotFoundError, UnavailableError
from forecache.base.files import is_locked
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings, unknown_variables
from forecache.cli.base import Finding, is_port_free
from forecache.cli.output import size
from forecache.plugins.doctor.shared_services import check_mlflow_server

if TYPE_CHECKING:
    from forecache.declare import Realtime
    from forecache.kit.lease import Holder
    from forecache.realtime.release.folder import ReleaseFolder


NEEDED_DISK_BYTES = 2 * 10**9
NEEDED_MEMORY_BYTES = 4 * 10**9
SPARK_JAVA_VERSIONS = (17, 21)
_RENEWAL_S = 1.0
"""Time that a renewal of a lease may take."""
_PATIENCE_S = 10.0  # for a remote to answer


def check_java(settings: Settings) -> Finding:
    from forecache.kit.spark.configuration import find_java

    java = find_java(settings)
    if java is None and not _find_need_of_spark(settings):
        return Finding("java", "ok", _NOT_NEEDED)
    if java is None:
        place = settings.java_home or "JAVA_HOME or PATH"
        return Finding(
            "java", "fail", f"none in {place}", "Run `make setup`, or `apt-get install -y openjdk-17-jre-headless`."
        )
    major = java_major_version(java)
    if major not in SPARK_JAVA_VERSIONS:
        return Finding("java", "fail", f"Java {major or '?'} at {java}", "Set FORECACHE_JAVA_HOME to a Java 17 or 21.")
    return Finding("java", "ok", f"Java {major} at {java}")


_NOT_NEEDED = "none, and nothing that is declared needs Spark"


def _find_need_of_spark(settings: Settings) -> str:
    """The setting, function of a declaration or module that does not load, for which Spark is needed; "" if none."""
    from forecache.declare.loading import read_project
    from forecache.lake.engine import find_spark_functions

    if settings.engine == "spark":
        return "FORECACHE_ENGINE"
    project = read_project(settings)
    pipelines, realtime = project.pipelines.values(), project.realtime.values()
    views = [*project.views.values(), *(view for each in pipelines for view in each.views)]
    functions: list[Any] = [each.entities.compute for each in pipelines if each.entities]
    functions += [each.label.compute for each in pipelines if each.label]
    functions += [each.examples.compute for each in realtime if each.examples]
    views += [view for each in realtime for view in each.views]
    return next(iter([*project.broken, *find_spark_functions(views, *functions)]), "")


def java_major_version(java: Path) -> int | None:
    """The major version that a `java` reports; None if it does not run."""
    try:
        done = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    quoted = (done.stderr + done.stdout).partition('version "')[2]
    digits = quoted.split(".")[0].split('"')[0].split("-")[0]
    return int(digits) if digits.isdigit() else None


def check_jars(settings: Settings) -> Finding:
    from forecache.kit.spark.configuration import jar_paths, s3_jars

    try:
        paths = [*jar_paths(settings), *s3_jars(settings)]
    except UnavailableError:
        if _find_need_of_spark(settings):
            raise
        return Finding("spark jars", "ok", _NOT_NEEDED)
    return Finding("spark jars", "ok", f"{len(paths)} in {settings.spark_jars}")


def check_disk(settings: Settings) -> Finding:
    folder = next(path for path in (settings.home_path, *settings.home_path.parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        return Finding(
            "home", "fail", f"{folder} is not writable", "Set FORECACHE_HOME to a folder that you can write to."
        )
    free = shutil.disk_usage(folder).free
    text = f"{settings.home_path}, {size(free)} free"
    if free < NEEDED_DISK_BYTES:
        return Finding("home", "warn", text, f"Free some space: a pipeline needs {size(NEEDED_DISK_BYTES)}.")
    return Finding("home", "ok", text)


def check_memory(settings: Settings) -> Finding:
    import psutil

    available = psutil.virtual_memory().available
    text = f"{size(available)} available, Spark driver {settings.spark_driver_memory}"
    if available < NEEDED_MEMORY_BYTES:
        return Finding("memory", "warn", text, "Close other programs, or lower FORECACHE_SPARK_DRIVER_MEMORY.")
    return Finding("memory", "ok", text)


def check_reader_port(settings: Settings) -> Finding:
    return _check_port("reader port", "FORECACHE_READER_PORT", settings.reader_host, settings.reader_port)


def check_ui_port(settings: Settings) -> Finding:
    return _check_port("ui port", "FORECACHE_DAGSTER_PORT", "127.0.0.1", settings.dagster_port)


def _check_port(name: str, variable: str, host: str, port: int) -> Finding:
    if is_port_free(host, port):
        return Finding(name, "ok", f"{host}:{port} is free")
    return Finding(name, "warn", f"{host}:{port} is in use", f"Stop the process that listens there, or set {variable}.")


def check_sources(settings: Settings) -> Finding:
    """Open every existing table, and connect to every database, that a source of the project names."""
    from forecache.declare import Query, TableSource
    from forecache.declare.loading import read_project
    from forecache.lake.sources import Pins

    project = read_project(settings)
    declared = (*project.publishable.values(), *project.follow_ups)
    sources = {source.name: source for each in declared for source in each.all_sources}.values()
    tables = [source for source in sources if isinstance(source, TableSource)]
    queried = [
        source for source in sources if not isinstance(source, TableSource) and isinstance(source.extract, Query)
    ]
    pins = Pins(settings)
    for table in tables:
        pins.pin(table)
    for source in queried:
        load_hook("table_sources", "require_database")(settings, source)
    if not tables and not queried:
        return Finding("sources", "ok", "only landing files")
    return Finding("sources", "ok", f"{len(tables)} existing tables and {len(queried)} queried databases answer")


def check_registered_models(settings: Settings) -> Finding:
    """Resolve each registered model's URI in MLflow, and load the model as a nightly run does."""
    from forecache.declare import RegisteredModel
    from forecache.declare.loading import read_project

    pipelines = read_project(settings).pipelines.values()
    applied = [(pipeline, pipeline.model) for pipeline in pipelines if isinstance(pipeline.model, RegisteredModel)]
    if not applied:
        return Finding("models", "ok", "no pipeline applies a registered model")
    from forecache.models.registry.applied.resolve import resolve_uri
    from forecache.models.registry.applied.scoring_plan import plan_model

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow retries for minutes by default
    found, problems = [], []
    for pipeline, model in applied:
        try:
            version = resolve_uri(settings, pipeline, model)
            plan_model(settings, pipeline, version)
            found.append(f"{pipeline.name}: {model.uri} is {f'version {version.version}' if model.name else 'there'}")
        except ForecacheError as error:
            problems.append(error)
    if problems:
        return Finding("models", "fail", " ".join(error.message for error in problems), problems[0].remedy)
    return Finding("models", "ok", "; ".join(found))


_NAMED = 5


def check_variables(settings: Settings) -> Finding:
    unknown = unknown_variables()
    if not unknown:
        return Finding("settings", "ok", "read from the environment and .env")
    meant = [f"{name} (did you mean {close}?)" if close else name for name, close in unknown.items()]
    remedy = "Rename or remove them; `forecache settings` lists all settings."
    return Finding("settings", "warn", f"no such setting: {', '.join(meant)}", remedy)


def check_project(settings: Settings) -> Finding:
    from forecache.declare.loading import read_project

    project = read_project(settings)
    pipelines = [*project.publishable, *project.realtime]
    if project.broken:
        usable = f"; usable: {', '.join(pipelines) or 'none'}"
        errors = " ".join(str(error) for error in project.broken.values())
        return Finding("pipelines", "fail", f"{errors.rstrip('.')}{usable}", "Fix them; the others run meanwhile.")
    if not pipelines:
        return Finding(
            "pipelines", "warn", f"none in {settings.project}.pipelines", "Declare one; see CONTRIBUTING.md."
        )
    return Finding("pipelines", "ok", f"{', '.join(pipelines)} in {settings.project}")


def check_lake(settings: Settings) -> Finding:
    from forecache.kit.delta.tables import table_names

    found = table_names(settings)
    if not found:
        return Finding(
            "lake", "warn", f"no table yet in {settings.lake_uri}", "Run `forecache demo` or `forecache run`."
        )
    return Finding("lake", "ok", f"{len(found)} tables in {settings.lake_uri}")


def check_mlflow(settings: Settings) -> Finding:
    uri = settings.mlflow_tracking_uri
    if not uri.startswith("sqlite:///"):
        return check_mlflow_server(settings)
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return Finding("mlflow", "warn", f"no database yet at {path}", "The first training run creates it.")
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("select count(*) from model_versions").fetchone()
    except sqlite3.Error as error:
        return Finding("mlflow", "fail", f"{path}: {error}", "Restore it, or remove the file and train again.")
    return Finding("mlflow", "ok", f"{count} model versions in {path}")


def check_stores(settings: Settings) -> Finding:
    """Check the pointers, and that served versions' files exist with their sizes (`check_bytes` reads them); and read
    what the remote serves."""
    from forecache.kit.versioned.pointer import pointer_problem
    from forecache.serve.store.integrity import check_sizes
    from forecache.serve.store.remote import open_remote, remote_pipelines
    from forecache.serve.store.remote_store import list_local_stores, list_served_manifests

    served, problems = [], []
    for store in list_local_stores(settings):
        try:
            manifest = store.current()
            if manifest is not None:
                check_sizes(store.layout, manifest)
                served.append(f"{store.pipeline} {manifest.version}")
            problem = pointer_problem(store.layout)
            if problem:
                problems.append(f"{store.pipeline}: {problem}")
        except (UnavailableError, NotFoundError) as error:
            problems.append(f"{store.pipeline}: {error.message}")
    if problems:
        remedy = "`forecache store verify` lists the damage and how to repair it."
        return Finding("stores", "fail", f"{len(problems)} damaged: {' '.join(problems)}", remedy)
    found = f"served: {', '.join(served)}" if served else f"none in {settings.store_path} yet"
    if settings.store_remote:
        remote = open_remote(settings.store_remote, settings.storage_options, patience_s=_PATIENCE_S)
        manifests = list_served_manifests(settings, remote_pipelines(remote))
        there = ", ".join(f"{each.pipeline} {each.version}" for each in manifests) or "nothing yet"
        found += f"; the remote serves {there}"
    return Finding("stores", "ok", found)


def check_rollbacks(settings: Settings) -> Finding:
    from forecache.declare.loading import read_project
    from forecache.models.registry.promotions import find_unfinished, promotions

    interrupted = []
    for name in read_project(settings).publishable:
        entry = find_unfinished(promotions(settings, name))
        if entry is not None:
            interrupted.append(
                f"{entry.action} of {name} from model {entry.from_version or 'none'} to {entry.to_version}"
            )
    if interrupted:
        return Finding(
            "rollbacks",
            "warn",
            f"interrupted: {', '.join(interrupted)}",
            "Run the same command again: it finishes that one and does nothing else. A run also finishes a model's.",
        )
    return Finding("rollbacks", "ok", "none was interrupted")


def check_leases(settings: Settings) -> Finding:
    """List who holds what on any machine; a lease that is not renewed is what a process that was killed has left.

    It takes some seconds if a process of another machine holds a lease.
    """
    from forecache.kit.installation import open_lake
    from forecache.kit.lease import TERM_S, read_leases
    from forecache.kit.process.wakes import LEASE
    from forecache.models.training.run_files import open_training_root
    from forecache.models.training.spec import training_root
    from forecache.serve.store.remote import open_remote

    def read_held() -> "list[Holder]":
        places = [open_lake(settings)]
        if settings.store_remote:
            places.append(open_remote(settings.store_remote, settings.storage_options))
        leases = [holder for place in places for holder in read_leases(place)]
        if training_root(settings) != str(settings.training_path):
            leases += read_leases(open_training_root(settings), is_deep=True)
        return [holder for holder in leases if not holder.released]

    held = read_held()
    left = [holder for holder in held if holder.is_dead]
    if len(left) < len(held):
        time.sleep(LEASE.every_s + _RENEWAL_S)
        again = read_held()
        left = [holder for holder in again if holder in held]
        held = again
    named = {holder.name: str(holder) for holder in held} | {
        name: holder for name, holder in _held_locks(settings) if name not in {each.name for each in held}
    }
    found = "; ".join(f"{name} by {holder}" for name, holder in sorted(named.items())) or "none is held"
    if left:
        names = ", ".join(sorted(holder.name for holder in left))
        remedy = f"A process was killed, or stands still. The next one takes over within {TERM_S:g} s: run it again."
        return Finding("leases", "warn", f"{found}. Not renewed: {names}", remedy)
    return Finding("leases", "ok", found)


def _held_locks(settings: Settings) -> Iterator[tuple[str, str]]:
    """The locks of this machine that are held, with their holders."""
    folder = settings.home_path / "locks"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_locked(path):
            yield path.relative_to(folder).as_posix(), path.read_text() or "a process"


def check_files(settings: Settings) -> Finding:
    """Check that every data file of every table can be read."""
    from forecache.kit.delta.damage import find_damaged_files

    found = list(find_damaged_files(settings))
    if not found:
        return Finding("table files", "ok", "every data file of the lake was read")
    named = "; ".join(f"{file.table}: {file.path}. {file.problem}" for file in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    remedies = " ".join(dict.fromkeys(file.remedy for file in found))
    return Finding("table files", "fail", f"{len(found)} damaged: {named}{more}", remedies)


def check_releases(settings: Settings) -> Finding:
    """Check that each real-time model has a current release that can answer with the declared features."""
    from forecache.declare.loading import read_project
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.released_models import list_released_models

    declared = read_project(settings).realtime
    names = sorted({*declared, *list_released_models(settings)})
    if not names:
        return Finding("releases", "ok", "no real-time model")
    current, damaged, missing, differs = [], [], [], []
    for name in names:
        folder = open_releases(settings, name)
        try:
            number = read_pointer(folder).current
            if number is None:
                missing.append(name)
                continue
            differs += list(_describe_differences(folder, number, declared.get(name)))
            current.append(f"{name} {number}")
        except ForecacheError as error:
            damaged.append(f"{name}: {error.message}")
    if damaged:
        remedy = "Release again: `forecache release build NAME`; on a replica, `forecache store pull --verify`."
        return Finding("releases", "fail", f"{len(damaged)} cannot answer: {' '.join(damaged)}", remedy)
    if differs:
        remedy = "Run `forecache train NAME`, then `forecache release build NAME`."
        return Finding("releases", "warn", "; ".join(differs), remedy)
    if missing:
        remedy = "Run `forecache train NAME`; of a model that is not trained here, `forecache run NAME`."
        return Finding("releases", "warn", f"none yet of {', '.join(missing)}", remedy)
    return Finding("releases", "ok", f"current: {', '.join(current)}")


def _describe_differences(folder: "ReleaseFolder", number: int, declared: "Realtime | None") -> Iterator[str]:
    """Describe packages and views that differ from those of a release's training; also verifies its files."""
    from forecache.models.inference.environment import differing_versions
    from forecache.realtime.release.folder import read_files, read_release

    release = read_release(folder, number)
    read_files(folder.release(number), release.files)
    for package, made_with, here in differing_versions(release.model.spec.packages):
        yield f"release {number} of {folder.name} was made with {package} {made_with}, and here it is {here}"
    now = {each.called: each.view.packed.contract for each in declared.lookups} if declared else {}
    for lookup in release.lookups:
        if now.get(lookup.called, lookup.contract) != lookup.contract:
            yield f"the view {lookup.view} has changed since release {number} of {folder.name} was trained"
