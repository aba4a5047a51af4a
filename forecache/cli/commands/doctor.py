"""`forecache doctor`: checks what Forecache needs and says what to do about what is missing."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from forecache.cli.base import command
from forecache.cli.output import print_json, show_table, size, wants_json
from forecache.errors import ForecacheError, NotFoundError, UnavailableError
from forecache.settings import Settings, load_settings, unknown_variables

State = Literal["ok", "warn", "fail"]
NEEDED_DISK_BYTES = 2 * 10**9
NEEDED_MEMORY_BYTES = 4 * 10**9
_NAMED = 5
SPARK_JAVA_VERSIONS = (17, 21)


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `remedy` is empty where nothing is to be done."""

    check: str
    state: State
    found: str
    remedy: str = ""


def check_variables() -> Finding:
    unknown = unknown_variables()
    if not unknown:
        return Finding("settings", "ok", "read from the environment and .env")
    meant = [f"{name} (did you mean {close}?)" if close else name for name, close in unknown.items()]
    remedy = "Rename or remove them; `forecache settings` lists those there are."
    return Finding("settings", "warn", f"no such setting: {', '.join(meant)}", remedy)


def check_java(settings: Settings) -> Finding:
    from forecache.lake.spark.session import find_java

    java = find_java(settings)
    if java is None:
        place = settings.java_home or "JAVA_HOME or PATH"
        return Finding(
            "java", "fail", f"none in {place}", "Run `make setup`, or `apt-get install -y openjdk-17-jre-headless`."
        )
    major = java_major(java)
    if major not in SPARK_JAVA_VERSIONS:
        return Finding("java", "fail", f"Java {major or '?'} at {java}", "Set FORECACHE_JAVA_HOME to a Java 17 or 21.")
    return Finding("java", "ok", f"Java {major} at {java}")


def java_major(java: Path) -> int | None:
    """The major version that a `java` reports; None where it does not run."""
    try:
        done = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    quoted = (done.stderr + done.stdout).partition('version "')[2]
    digits = quoted.split(".")[0].split('"')[0].split("-")[0]
    return int(digits) if digits.isdigit() else None


def check_jars(settings: Settings) -> Finding:
    from forecache.lake.spark.object_store import s3_jars
    from forecache.lake.spark.session import jar_paths

    paths = [*jar_paths(settings), *s3_jars(settings)]
    return Finding("spark jars", "ok", f"{len(paths)} in {settings.spark_jars}")


def check_disk(settings: Settings) -> Finding:
    folder = next(path for path in (settings.home_path, *settings.home_path.parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        return Finding("home", "fail", f"{folder} is not writable", "Set FORECACHE_HOME to a folder of yours.")
    free = shutil.disk_usage(folder).free
    text = f"{settings.home_path}, {size(free)} free"
    if free < NEEDED_DISK_BYTES:
        return Finding("home", "warn", text, f"Free some: a pipeline wants {size(NEEDED_DISK_BYTES)} to work in.")
    return Finding("home", "ok", text)


def check_memory(settings: Settings) -> Finding:
    import psutil

    available = psutil.virtual_memory().available
    text = f"{size(available)} available, Spark driver {settings.spark_driver_memory}"
    if available < NEEDED_MEMORY_BYTES:
        return Finding("memory", "warn", text, "Close something, or lower FORECACHE_SPARK_DRIVER_MEMORY.")
    return Finding("memory", "ok", text)


def check_port(name: str, variable: str, host: str, port: int) -> Finding:
    if port_is_free(host, port):
        return Finding(name, "ok", f"{host}:{port} is free")
    return Finding(name, "warn", f"{host}:{port} is in use", f"Stop what listens there, or set {variable}.")


def port_is_free(host: str, port: int) -> bool:
    """True where this process could listen on host:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_project(settings: Settings) -> Finding:
    from forecache.pipeline.loading import read_project

    project = read_project(settings)
    pipelines = project.pipelines
    if project.broken:
        usable = f"; usable: {', '.join(pipelines) or 'none'}"
        told = " ".join(str(error) for error in project.broken.values())
        return Finding("pipelines", "fail", f"{told.rstrip('.')}{usable}", "Mend them; the others go on meanwhile.")
    if not pipelines:
        return Finding(
            "pipelines", "warn", f"none in {settings.project}.pipelines", "Declare one; see CONTRIBUTING.md."
        )
    return Finding("pipelines", "ok", f"{', '.join(pipelines)} in {settings.project}")


def check_lake(settings: Settings) -> Finding:
    from forecache.lake.delta.tables import table_names

    found = table_names(settings)
    if not found:
        return Finding(
            "lake", "warn", f"no table yet in {settings.lake_uri}", "Run `forecache demo` or `forecache run`."
        )
    return Finding("lake", "ok", f"{len(found)} tables in {settings.lake_uri}")


def check_mlflow(settings: Settings) -> Finding:
    uri = settings.mlflow_tracking_uri
    if not uri.startswith("sqlite:///"):
        return Finding("mlflow", "ok", f"server {uri.partition('@')[2] or uri} (not asked)")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return Finding("mlflow", "warn", f"no database yet at {path}", "The first training run makes it.")
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("select count(*) from model_versions").fetchone()
    except sqlite3.Error as error:
        return Finding("mlflow", "fail", f"{path}: {error}", "Restore it, or remove the file and train again.")
    return Finding("mlflow", "ok", f"{count} model versions in {path}")


def check_stores(settings: Settings) -> Finding:
    """Whether the served versions' files are there in their sizes; `check_bytes` reads them."""
    from forecache.store.checkup import stores_here
    from forecache.store.integrity import check_sizes

    served, problems = [], []
    for store in stores_here(settings):
        try:
            manifest = store.current()
            if manifest is not None:
                check_sizes(store.layout, manifest)
                served.append(f"{store.pipeline} {manifest.version}")
        except (UnavailableError, NotFoundError) as error:
            problems.append(f"{store.pipeline}: {error.message}")
    if problems:
        remedy = "`forecache verify` says what is damaged and what mends it."
        return Finding("stores", "fail", f"{len(problems)} damaged: {' '.join(problems)}", remedy)
    return Finding("stores", "ok", f"served: {', '.join(served)}" if served else f"none in {settings.store_path} yet")


def check_bytes(settings: Settings) -> Finding:
    """Whether every byte of every version in the stores is the one that was written."""
    from forecache.store.checkup import verify_stores

    found = verify_stores(settings)
    return Finding("store files", "ok", f"{size(sum(item.read_bytes for item in found))} of the stores were read")


def check_rollbacks(settings: Settings) -> Finding:
    from forecache.pipeline import load_pipelines
    from forecache.registry.promotions import promotions, unfinished
    from forecache.store import open_store

    cut_short = []
    for name in load_pipelines(settings):
        entry, store = unfinished(promotions(settings, name)), open_store(settings, name)
        current = store.pointer().current
        if entry is not None:
            cut_short.append(
                f"{entry.action} of {name} from model {entry.from_version or 'none'} to {entry.to_version}"
            )
        elif current in store.quarantined():  # of the store alone: the pointer moves after the quarantine
            cut_short.append(f"{name} from version {current}, which is quarantined and still current")
    if cut_short:
        return Finding(
            "rollbacks",
            "warn",
            f"cut short: {', '.join(cut_short)}",
            "Give the same command again: it finishes that one and does nothing else. A run finishes a model's, too.",
        )
    return Finding("rollbacks", "ok", "none was cut short")


def check_files(settings: Settings) -> Finding:
    """Whether every data file of every table can be read whole."""
    from forecache.lake.delta.damage import damaged_files

    found = list(damaged_files(settings))
    if not found:
        return Finding("table files", "ok", "every data file of the lake was read")
    named = "; ".join(f"{file.table}: {file.path}. {file.problem}" for file in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    remedies = " ".join(dict.fromkeys(file.remedy for file in found))
    return Finding("table files", "fail", f"{len(found)} damaged: {named}{more}", remedies)


def _checks(settings: Settings) -> list[tuple[str, Callable[[], Finding]]]:
    host = settings.reader_host
    return [
        ("java", lambda: check_java(settings)),
        ("spark jars", lambda: check_jars(settings)),
        ("home", lambda: check_disk(settings)),
        ("memory", lambda: check_memory(settings)),
        ("reader port", lambda: check_port("reader port", "FORECACHE_READER_PORT", host, settings.reader_port)),
        ("ui port", lambda: check_port("ui port", "FORECACHE_DAGSTER_PORT", "127.0.0.1", settings.dagster_port)),
        ("pipelines", lambda: check_project(settings)),
        ("lake", lambda: check_lake(settings)),
        ("mlflow", lambda: check_mlflow(settings)),
        ("stores", lambda: check_stores(settings)),
        ("rollbacks", lambda: check_rollbacks(settings)),
    ]


def examine(*, deep: bool = False) -> list[Finding]:
    """Every check's finding; a check that raises a ForecacheError is a failed one with that error's sentence."""
    try:
        settings = load_settings()
    except ForecacheError as error:
        return [Finding("settings", "fail", error.message, error.remedy)]
    findings = [check_variables()]
    checks = _checks(settings)
    if deep:
        checks.append(("table files", lambda: check_files(settings)))
        checks.append(("store files", lambda: check_bytes(settings)))
    for name, check in checks:
        try:
            findings.append(check())
        except ForecacheError as error:
            findings.append(Finding(name, "fail", error.message, error.remedy))
    return findings


@command("doctor", examples="forecache doctor\nforecache doctor --json")
@click.option("--deep", is_flag=True, help="Read every data file of the lake and of the stores, too.")
@click.pass_context
def doctor(context: click.Context, deep: bool) -> None:
    """Check Java, jars, disk, memory, ports, settings, pipelines, lake, MLflow, stores; exit 1 if one fails."""
    findings = examine(deep=deep)
    failed = any(finding.state == "fail" for finding in findings)
    if wants_json():
        print_json({"ok": not failed, "findings": findings})
    else:
        from rich.text import Text

        colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
        rows = [
            (Text(finding.state, style=colours[finding.state]), finding.check, finding.found, finding.remedy)
            for finding in findings
        ]
        show_table(("", "check", "found", "what to do"), rows)
    context.exit(1 if failed else 0)
