"""Spark's access to a lake on S3: the jars of `s3a://`, and Hadoop options that are equivalent to delta-rs's.

Spark reads tables and writes data files there. It never commits: Delta's log store for `s3a://` does not keep two
drivers from writing the same version (see docs/operations.md); delta-rs commits, with conditional puts.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
