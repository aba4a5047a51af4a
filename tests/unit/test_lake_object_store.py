"""What Spark is told of an object store, and what it needs for that."""

from pathlib import Path

import pytest

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.kit.spark.configuration import hadoop_options, s3_jars
from forecache.kit.spark.session import _escape_property


def on_s3(tmp_path: Path, **options: str) -> Settings:
    return load_settings(home=tmp_path, lake="s3://bucket/lake", storage_options=options, spark_jars=tmp_path / "jars")


def test_spark_gets_what_delta_rs_gets_under_either_of_its_names(tmp_path: Path) -> None:
    long = on_s3(
        tmp_path,
        AWS_ENDPOINT_URL="http://127.0.0.1:9000",
        AWS_ACCESS_KEY_ID="user",
        AWS_SECRET_ACCESS_KEY="hush",
        AWS_REGION="eu-west-1",
        AWS_ALLOW_HTTP="true",
    )
    short = on_s3(
        tmp_path, endpoint="http://127.0.0.1:9000", access_key_id="user", secret_access_key="hush", region="eu-west-1"
    )
    assert hadoop_options(long) == {
        "fs.s3a.endpoint": "http://127.0.0.1:9000",
        "fs.s3a.access.key": "user",
        "fs.s3a.secret.key": "hush",
        "fs.s3a.endpoint.region": "eu-west-1",
        "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "fs.s3a.path.style.access": "true",
    }
    assert hadoop_options(short) == hadoop_options(long)


@pytest.mark.parametrize(
    ("given", "provider"),
    [
        ({}, "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"),
        (
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
            "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
        ),
    ],
)
def test_without_keys_spark_looks_for_the_identity_of_the_workload(
    tmp_path: Path, given: dict[str, str], provider: str
) -> None:
    options = hadoop_options(on_s3(tmp_path, **given))
    assert options["fs.s3a.aws.credentials.provider"] == provider
    assert "fs.s3a.path.style.access" not in options


def test_a_lake_in_a_folder_needs_neither_options_nor_jars(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert hadoop_options(settings) == {}
    assert s3_jars(settings) == []


def test_object_store_options_let_a_lake_in_a_folder_read_existing_tables_where_the_jars_are(tmp_path: Path) -> None:
    jars = tmp_path / "jars"
    options = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hush"}
    settings = load_settings(home=tmp_path, storage_options=options, spark_jars=jars)
    assert hadoop_options(settings)["fs.s3a.secret.key"] == "hush"
    assert s3_jars(settings) == []
    (jars / "s3").mkdir(parents=True)
    (jars / "s3" / "hadoop-aws-3.4.2.jar").touch()
    assert s3_jars(settings) == [jars / "s3" / "hadoop-aws-3.4.2.jar"]


def test_missing_jars_are_an_error_with_the_remedy_unless_the_configuration_brings_others(tmp_path: Path) -> None:
    settings = on_s3(tmp_path)
    with pytest.raises(UnavailableError, match=r"s3://bucket/lake.*Run `make setup-s3`"):
        s3_jars(settings)
    (tmp_path / "jars" / "s3").mkdir(parents=True)
    jars = [tmp_path / "jars" / "s3" / name for name in ("hadoop-aws-3.4.2.jar", "s3-2.29.52.jar")]
    for jar in jars:
        jar.touch()
    assert s3_jars(settings) == jars
    own = settings.model_copy(update={"spark_conf": {"spark.jars.packages": "org.apache.hadoop:hadoop-aws:3.4.2"}})
    assert s3_jars(own) == []


def test_a_value_of_the_configuration_is_escaped_as_java_reads_it() -> None:
    assert _escape_property(" a\\b\nc=d ") == "a\\\\b\\nc=d"
    assert _escape_property("spark.a b", " :=") == "spark.a\\ b"
