"""The process of `forecache query` ends with exit code 0, also if the statement had its rows while Arrow read ahead."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from store_services import minio_server

from forecache.base.settings import Settings, load_settings

_RUNS = 8
_FILES, _ROWS = 8, 200_000


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A lake with a table that takes longer to read than a statement with a limit."""
    if request.param == "folder":
        yield _with_table(load_settings(home=tmp_path / "home"))
        return
    with minio_server(tmp_path / "minio", "cloud") as options:
        yield _with_table(load_settings(home=tmp_path / "home", lake="s3://cloud/la ke", storage_options=options))


def _with_table(settings: Settings) -> Settings:
    random = np.random.default_rng(0)
    for day in range(_FILES):
        products = [f"product {number}" for number in random.integers(0, 1_000_000, _ROWS)]
        rows = pa.table({"product": products, "score": random.random(_ROWS), "as_of": [f"2026-01-0{day + 1}"] * _ROWS})
        write_deltalake(
            settings.table_uri("predictions_items"), rows, partition_by=["as_of"], mode="append",
            storage_options=settings.storage_options,
        )  # fmt: skip
    return settings


@pytest.mark.slow
@pytest.mark.faults
def test_a_statement_with_a_limit_ends_with_exit_code_0(lake: Settings) -> None:
    environment = {
        "FORECACHE_HOME": str(lake.home),
        "FORECACHE_LAKE": lake.lake_uri,
        "FORECACHE_STORAGE_OPTIONS": json.dumps(lake.storage_options),
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "forecache.cli.main", "query", "select product from predictions_items limit 1"]
    for _ in range(_RUNS):
        ended = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)[0]["product"].startswith("product ")
