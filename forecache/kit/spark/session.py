"""The one Spark session of a process, started from local jars, with Delta and quiet logs."""

import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.kit.spark.configuration import find_java, jar_paths, s3_jars, set_s3_options, spark_configuration

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_session: "SparkSession | None" = None


def spark_path(uri: str) -> str:
    """A lake URI for Spark: s3:// becomes s3a://."""
    return "s3a://" + uri.removeprefix("s3://") if uri.startswith("s3://") else uri


def spark_session(
    settings: Settings, *, archive_to: Path | None = None, more_jars: Sequence[Path] = ()
) -> "SparkSession":
    """The process's Spark session, started at the first call; later calls return it whatever their arguments.

    The JVM archives its classes to `archive_to` when it ends. `more_jars` are beside those of Delta and S3.
    UnavailableError if Java or a jar is missing, or the JVM did not start.
    """
    global _session
    if _session is None:
        begin_work("starting Spark")
        _session = _start(settings, archive_to, more_jars)
    return _session


def stop_spark(*, timeout_s: float = 30.0) -> None:
    """Stop the session and its JVM, if one was started, and wait up to `timeout_s` for the JVM to end."""
    global _session
    if _session is not None:
        gateway = _session.sparkContext._gateway
        _session.stop()
        _session = None
        if gateway is not None and getattr(gateway, "proc", None) is not None:
            from pyspark import SparkContext

            gateway.shutdown()
            gateway.proc.stdin.close()
            gateway.proc.wait(timeout=timeout_s)
            SparkContext._gateway = None
            SparkContext._jvm = None


def _start(settings: Settings, archive_to: Path | None, more_jars: Sequence[Path]) -> "SparkSession":
    java = find_java(settings)
    if java is None:
        raise UnavailableError(
            "Spark needs Java 17 or 21 and none was found.", remedy="Run `make setup`, or set FORECACHE_JAVA_HOME."
        )
    jars, more_jars = jar_paths(settings), [*s3_jars(settings), *more_jars]
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # PySpark sends executors this path; only spark-submit would read the property.
    os.environ["PYSPARK_PYTHON"] = settings.spark_conf.get("spark.pyspark.python", sys.executable)
    os.environ["JAVA_HOME"] = str(java.resolve().parent.parent)
    if settings.spark_master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    conf = spark_configuration(settings, jars, archive_to)
    conf["spark.jars"] = ",".join([conf["spark.jars"], *(jar.as_uri() for jar in more_jars)])
    builder = SparkSession.Builder().appName("forecache").master(settings.spark_master)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    log = settings.home_path / "spark" / "spark.log"
    try:
        with _redirect_stderr(log), _keep_interrupt_handler(), _write_properties(conf, settings):
            session = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"Spark did not start on {settings.spark_master!r}: {str(error).splitlines()[0]}.",
            remedy=f"Its log is {log}; `forecache doctor` checks Java, the jars and the settings.",
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    set_s3_options(session, settings)
    return session


@contextmanager
def _write_properties(conf: dict[str, str], settings: Settings) -> Iterator[None]:
    """Let the JVM that is started inside read its configuration from a temporary file that only this user can read.

    PySpark would pass it on the command line, where every user of the machine sees it.
    """
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    scratch = settings.home_path / "spark"
    with tempfile.NamedTemporaryFile("w", dir=scratch, suffix=".properties", encoding="utf-8") as file:
        file.writelines(f"{_escape_property(key, ' :=')}={_escape_property(value)}\n" for key, value in conf.items())
        file.flush()
        arguments = ["--properties-file", file.name, "--load-spark-defaults"]
        os.environ["PYSPARK_SUBMIT_ARGS"] = f"{shlex.join(arguments)} {before or 'pyspark-shell'}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYSPARK_SUBMIT_ARGS"]
            else:
                os.environ["PYSPARK_SUBMIT_ARGS"] = before


def _escape_property(text: str, more: str = "") -> str:
    """Escape a text for java.util.Properties, in UTF-8."""
    text = text.strip().replace("\\", "\\\\")
    for sign, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), *((sign, f"\\{sign}") for sign in more)):
        text = text.replace(sign, escape)
    return text


@contextmanager
def _redirect_stderr(log: Path) -> Iterator[None]:
    """Let the JVM that is started inside inherit a log file as its standard error instead of the terminal."""
    kept = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _keep_interrupt_handler() -> Iterator[None]:
    """Keep the process's SIGINT handler: PySpark's calls the JVM during another call, which corrupts both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)
