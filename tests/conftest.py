"""Fixtures that every test folder shares: settings with a home of their own, and one Spark session per worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forecache.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", spark_master="local[2]", spark_driver_memory="1g")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    from forecache.lake.spark import spark_session, stop_spark

    home = tmp_path_factory.mktemp("spark") / "home"
    yield spark_session(load_settings(home=home, spark_master="local[2]", spark_driver_memory="1g"))
    stop_spark()
