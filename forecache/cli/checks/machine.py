"""Checks of the machine: Java, jars, disk, memory and free ports."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from forecache.base.settings import Settings
from forecache.cli.checks import Finding
from forecache.cli.output import size

NEEDED_DISK_BYTES = 2 * 10**9
NEEDED_MEMORY_BYTES = 4 * 10**9
SPARK_JAVA_VERSIONS = (17, 21)


def check_java(settings: Settings) -> Finding:
    from forecache.kit.spark.configuration import find_java

    java = find_java(settings)
    if java is None:
        place = settings.java_home or "JAVA_HOME or PATH"
        return Finding(
            "java", "fail", f"none in {place}", "Run `make setup`, or `apt-get install -y openjdk-17-jre-headless`."
        )
    major = java_major_version(java)
    if major not in SPARK_JAVA_VERSIONS:
        return Finding("java", "fail", f"Java {major or '?'} at {java}", "Set FORECACHE_JAVA_HOME to a Java 17 or 21.")
    return Finding("java", "ok", f"Java {major} at {java}")


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

    paths = [*jar_paths(settings), *s3_jars(settings)]
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


def check_port(name: str, variable: str, host: str, port: int) -> Finding:
    if is_port_free(host, port):
        return Finding(name, "ok", f"{host}:{port} is free")
    return Finding(name, "warn", f"{host}:{port} is in use", f"Stop the process that listens there, or set {variable}.")


def is_port_free(host: str, port: int) -> bool:
    """True if this process can listen on host:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
