"""The one Spark session of a process, started from local jars, with Delta and quiet logs."""

import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.errors import UnavailableError
from forecache.lake.spark.object_store import open_to_s3, s3_jars
from forecache.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JARS = ("delta-spark_4.1_2.13-4.4.0.jar", "delta-storage-4.4.0.jar")

# Measured on two cores with 4 million rows of 20 floats (a third of a gigabyte) through the JVM into a worker and back,
# in seconds of CPU of a session's first run: 35 to 38 `short`, 36 `long` with the JVM's own thresholds, and 31 with ten
# times those of the second compiler, which then spends 7 seconds instead of 11: what runs for every row comes by it as
# soon, and more of a session's plans and commits stay with the first compiler. Later runs take less than half of
# `short`. Scoring sends no rows through the JVM and takes the same with any; features, checks and drift do, of a part
# of the lake that its size only hints at: the limit is a guess.
_LATER = " ".join(
    f"-XX:Tier4{name}={10 * default}"
    for name, default in {
        "InvocationThreshold": 5_000,
        "MinInvocationThreshold": 600,
        "CompileThreshold": 15_000,
        "BackEdgeThreshold": 40_000,
    }.items()
)
_JVM = {"short": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1", "long": f"-XX:+UseParallelGC {_LATER}"}
_LARGE_LAKE_BYTES = 1 << 28

_LINKED_JAVA = PROJECT_ROOT / ".tools" / "java"

_session: "SparkSession | None" = None


def find_java(settings: Settings) -> Path | None:
    """The `java` that Spark will run: the setting's, JAVA_HOME's, the one that set-up linked, or the first on PATH."""
    home = settings.java_home or os.environ.get("JAVA_HOME", "")
    if not home and _LINKED_JAVA.is_dir():
        home = str(_LINKED_JAVA)
    if home:
        java = Path(home) / "bin" / "java"
        return java if java.is_file() else None
    found = shutil.which("java")
    return Path(found).resolve() if found else None


def jar_paths(settings: Settings) -> list[Path]:
    """The Delta jars, all present.

    Raises:
        UnavailableError: A jar is missing from the folder.
    """
    paths = [settings.spark_jars.resolve() / jar for jar in JARS]
    for path in paths:
        if not path.is_file():
            raise UnavailableError(f"Spark needs the jar {path}, which is missing.", remedy="Run `make setup`.")
    return paths


def spark_path(uri: str) -> str:
    """A lake URI as Spark takes it: the same bucket, through the s3a file system."""
    return "s3a://" + uri.removeprefix("s3://") if uri.startswith("s3://") else uri


def class_archive(settings: Settings) -> Path:
    """Where set-up keeps the classes of a session as the JVM wants them in memory (class data sharing)."""
    return settings.spark_jars.resolve() / "classes.jsa"


def spark_session(settings: Settings, *, archive_to: Path | None = None) -> "SparkSession":
    """The process's Spark session, started at the first call; later calls return it whatever their settings.

    Args:
        archive_to: Let the JVM write its classes there as it ends.

    Raises:
        UnavailableError: Java or a jar is missing, or the JVM did not start.
    """
    global _session
    if _session is None:
        _session = _start(settings, archive_to)
    return _session


def stop_spark(*, timeout_s: float = 30.0) -> None:
    """Stop the session and its JVM, if one was started, and wait so long for the JVM to end."""
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


def _start(settings: Settings, archive_to: Path | None) -> "SparkSession":
    java = find_java(settings)
    if java is None:
        raise UnavailableError(
            "Spark needs Java 17 or 21 and none was found.",
            remedy="Run `make setup`, or set FORECACHE_JAVA_HOME.",
        )
    jars, more_jars = jar_paths(settings), s3_jars(settings)
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # PySpark sends executors this path; only spark-submit would read the property.
    os.environ["PYSPARK_PYTHON"] = settings.spark_conf.get("spark.pyspark.python", sys.executable)
    os.environ["JAVA_HOME"] = str(java.resolve().parent.parent)
    if settings.spark_master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    conf = _configuration(settings, jars, archive_to)
    conf["spark.jars"] = ",".join([conf["spark.jars"], *(jar.as_uri() for jar in more_jars)])
    builder = SparkSession.Builder().appName("forecache").master(settings.spark_master)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    log = settings.home_path / "spark" / "spark.log"
    try:
        with _stderr_to(log), _own_interrupt_handler(), _configured(conf, settings):
            session = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"Spark did not start on {settings.spark_master!r}: {str(error).splitlines()[0]}.",
            remedy=f"Its log is {log}; `forecache doctor` checks Java, the jars and the settings.",
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    open_to_s3(session, settings)
    return session


@contextmanager
def _configured(conf: dict[str, str], settings: Settings) -> Iterator[None]:
    """Let the JVM that is started inside read its configuration from a file of this user's, gone afterwards.

    PySpark gives what its builder is given on the command line, where every user of the machine sees it.
    """
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    scratch = settings.home_path / "spark"
    with tempfile.NamedTemporaryFile("w", dir=scratch, suffix=".properties", encoding="utf-8") as file:
        file.writelines(f"{_escaped(key, ' :=')}={_escaped(value)}\n" for key, value in conf.items())
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


def _escaped(text: str, more: str = "") -> str:
    """Text as java.util.Properties reads it, in UTF-8."""
    text = text.strip().replace("\\", "\\\\")
    for sign, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), *((sign, f"\\{sign}") for sign in more)):
        text = text.replace(sign, escape)
    return text


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
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
def _own_interrupt_handler() -> Iterator[None]:
    """Keep the process's SIGINT handler: PySpark's calls the JVM in the middle of another call and garbles both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _configuration(settings: Settings, jars: list[Path], archive_to: Path | None) -> dict[str, str]:
    scratch = settings.home_path / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    options = ["-Dlog4j2.level=ERROR", "-Duser.timezone=UTC", f"-Dderby.system.home={scratch}"]
    options += _archive_options(settings, archive_to)
    conf = {
        "spark.jars": ",".join(jar.as_uri() for jar in jars),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
        "spark.databricks.delta.snapshotPartitions": "2",
        # Spark writes a table's data files, and leaves the commit to delta-rs.
        "spark.databricks.delta.formatCheck.enabled": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.driver.memory": settings.spark_driver_memory,
        "spark.driver.defaultJavaOptions": " ".join(options),
        "spark.driver.extraJavaOptions": _JVM[_jvm(settings)],
        # Classes are archived from the JVM's own class path only, where Spark's list of jars does not put them.
        "spark.driver.extraClassPath": ":".join(map(str, jars)),
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "16",
        "spark.sql.shuffle.partitions": "16",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if settings.spark_master.startswith("local"):
        # Elsewhere Forecache may not be installed where a task needs Python.
        conf["spark.python.daemon.module"] = "forecache.lake.spark.python_daemon"
    return conf | settings.spark_conf


def _jvm(settings: Settings) -> str:
    """How long the session's work will be: as set, or by whether the lake is on this machine and small."""
    if settings.spark_jvm != "auto":
        return settings.spark_jvm
    if "://" in settings.lake_uri:
        return "long"
    size = 0
    for file in Path(settings.lake_uri).rglob("*.parquet"):
        size += file.stat().st_size
        if size > _LARGE_LAKE_BYTES:
            return "long"
    return "short"


def _archive_options(settings: Settings, archive_to: Path | None) -> list[str]:
    # The JVM would name on standard output every class that it does not archive, and an archive that does not fit it.
    if archive_to is not None:
        return [f"-XX:ArchiveClassesAtExit={archive_to}", "-Xlog:disable"]
    archive = class_archive(settings)
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:disable"] if archive.is_file() else []
