"""The configuration of Spark: Java, jars, memory, Delta, the archive of classes, and `s3a://`."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import UnavailableError
from forecache.base.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


JARS = ("delta-spark_4.1_2.13-4.4.0.jar", "delta-storage-4.4.0.jar")
# Measured on two cores with 4 million rows of 20 floats (a third of a gigabyte) through the JVM into a worker and back,
# in seconds of CPU of a session's first run: 35 to 38 `short`, 36 `long` with the JVM's own thresholds, and 31 with ten
# times those of the second compiler, which then spends 7 seconds instead of 11: code that runs for every row is still
# compiled by it early, and more of a session's plans and commits stay with the first compiler. Later runs take less
# than half of `short`. Scoring sends no rows through the JVM and takes the same with any; features, checks and drift
# do, for a part of the lake that its size only hints at: the limit is a guess.
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
    """The Delta jars; UnavailableError if one is missing."""
    paths = [settings.spark_jars.resolve() / jar for jar in JARS]
    for path in paths:
        if not path.is_file():
            raise UnavailableError(f"Spark needs the jar {path}, which is missing.", remedy="Run `make setup`.")
    return paths


def class_archive(settings: Settings) -> Path:
    """Path of the archive of a session's classes that set-up writes (class data sharing of the JVM)."""
    return settings.spark_jars.resolve() / "classes.jsa"


def spark_configuration(settings: Settings, jars: list[Path], archive_to: Path | None) -> dict[str, str]:
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
        # Spark writes a table's data files; delta-rs commits them.
        "spark.databricks.delta.formatCheck.enabled": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.driver.memory": settings.spark_driver_memory,
        "spark.driver.defaultJavaOptions": " ".join(options),
        "spark.driver.extraJavaOptions": _JVM[_session_length(settings)],
        # Classes are archived only from the JVM's own class path, which `spark.jars` does not extend.
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
        # On a cluster Forecache may not be installed in the Python of the executors.
        conf["spark.python.daemon.module"] = "forecache.kit.spark.python_daemon"
    return conf | settings.spark_conf


def _session_length(settings: Settings) -> str:
    """Expected length of the session's work, "short" or "long": as set, or by the lake's place and size."""
    if settings.spark_jvm != "auto":
        return settings.spark_jvm
    if settings.lake_is_remote:
        return "long"
    size = 0
    for folder, _, names in os.walk(settings.lake_uri):
        for name in names:
            with suppress(FileNotFoundError):  # maintenance may remove files meanwhile
                size += os.stat(os.path.join(folder, name)).st_size if name.endswith(".parquet") else 0
        if size > _LARGE_LAKE_BYTES:
            return "long"
    return "short"


def _archive_options(settings: Settings, archive_to: Path | None) -> list[str]:
    # Else the JVM prints every class that it does not archive, and warns of an archive that does not fit it.
    if archive_to is not None:
        return [f"-XX:ArchiveClassesAtExit={archive_to}", "-Xlog:disable"]
    archive = class_archive(settings)
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:disable"] if archive.is_file() else []


FOLDER = "s3"
_FILE_SYSTEM_JAR = "hadoop-aws-*.jar"

_HADOOP = {
    "access_key_id": "fs.s3a.access.key",
    "secret_access_key": "fs.s3a.secret.key",
    "session_token": "fs.s3a.session.token",
    "token": "fs.s3a.session.token",
    "endpoint": "fs.s3a.endpoint",
    "endpoint_url": "fs.s3a.endpoint",
    "default_region": "fs.s3a.endpoint.region",
    "region": "fs.s3a.endpoint.region",
}
_STATIC = "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
_TEMPORARY = "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider"
# As delta-rs: environment variables, a workload's web identity, a profile, the container, the machine.
_OF_THE_WORKLOAD = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"


def is_on_s3(settings: Settings) -> bool:
    return settings.lake_uri.startswith(("s3://", "s3a://"))


def _reads_s3(settings: Settings) -> bool:
    """Return whether Spark reads S3: the lake is on it, or existing tables may be, as object store options are set."""
    return is_on_s3(settings) or bool(settings.storage_options)


def s3_jars(settings: Settings) -> list[Path]:
    """Paths of the jars of the s3a file system; [] if Spark does not read S3, or its configuration names others."""
    own = settings.spark_conf.get("spark.jars", "") + settings.spark_conf.get("spark.jars.packages", "")
    if not _reads_s3(settings) or "hadoop-aws" in own:
        return []
    folder = settings.spark_jars.resolve() / FOLDER
    if is_on_s3(settings) and not any(folder.glob(_FILE_SYSTEM_JAR)):
        raise UnavailableError(
            f"The lake is in {settings.lake_uri}, and Spark's jars for S3 are not in {folder}.",
            remedy="Run `make setup-s3`.",
        )
    return sorted(folder.glob("*.jar"))


def hadoop_options(settings: Settings) -> dict[str, str]:
    """Options of the s3a file system, including secrets; empty if Spark does not read S3."""
    if not _reads_s3(settings):
        return {}
    given = {key.lower().removeprefix("aws_"): value for key, value in settings.storage_options.items()}
    options = {hadoop: given[name] for name, hadoop in _HADOOP.items() if given.get(name)}
    if "fs.s3a.secret.key" not in options:
        provider = _OF_THE_WORKLOAD
    else:
        provider = _TEMPORARY if "fs.s3a.session.token" in options else _STATIC
    options["fs.s3a.aws.credentials.provider"] = provider
    if "fs.s3a.endpoint" in options and given.get("virtual_hosted_style_request", "false").lower() != "true":
        options["fs.s3a.path.style.access"] = "true"
    return options


def set_s3_options(session: "SparkSession", settings: Settings) -> None:
    """Set the options in the running JVM: on its command line every user of the machine would see the secrets.

    Spark sends the executors its Hadoop configuration with each job.
    """
    java = session.sparkContext._jsc
    assert java is not None
    configuration = java.hadoopConfiguration()
    for key, value in hadoop_options(settings).items():
        configuration.set(key, value)
