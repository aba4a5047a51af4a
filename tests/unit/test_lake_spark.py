"""What the JVM of a session is started with."""

import subprocess
from pathlib import Path

import pytest

from forecache.base.settings import load_settings
from forecache.kit.spark import configuration as spark


@pytest.mark.parametrize(
    ("word", "flag", "value"), [("short", "TieredStopAtLevel", "1"), ("long", "UseParallelGC", "true")]
)
def test_options_of_the_jvm_are_ones_that_it_knows(tmp_path: Path, word: str, flag: str, value: str) -> None:
    java = spark.find_java(load_settings(home=tmp_path))
    assert java is not None
    # Spark lets the JVM pass over options that it does not know.
    command = [str(java), *spark._JVM[word].split(), "-XX:+PrintFlagsFinal", "-version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flags = {name: found for name, _, found, *_ in (line.split()[1:] for line in printed.splitlines() if "=" in line)}
    assert flags[flag] == value
    assert flags["Tier4InvocationThreshold"] == ("50000" if word == "long" else "5000")


def test_the_jvm_is_for_long_work_where_the_lake_is_large_or_not_on_this_machine(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, spark_jvm="auto")
    assert spark._session_length(settings) == "short"
    file = Path(settings.lake_uri) / "features" / "part.parquet"
    file.parent.mkdir(parents=True)
    with file.open("wb") as opened:
        opened.truncate(spark._LARGE_LAKE_BYTES + 1)
    assert spark._session_length(settings) == "long"
    assert spark._session_length(load_settings(home=tmp_path, spark_jvm="short")) == "short"
    assert spark._session_length(load_settings(home=tmp_path, lake_uri="s3://bucket/lake", spark_jvm="auto")) == "long"
