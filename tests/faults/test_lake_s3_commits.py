"""Commits on a real S3-compatible server that fails: none is lost, none is there twice, lost answers included."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fault_proxy import Faults, fault_proxy
from s3_proof import prove
from store_services import minio_server

from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.tables import append_rows, open_table

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path / "minio", "cloud") as found:
        yield found


def on_s3(tmp_path: Path, options: dict[str, str], **more: str) -> Settings:
    return load_settings(home=tmp_path / "home", lake="s3://cloud/lake", storage_options={**options, **more})


def numbers(table: Any) -> list[int]:
    return sorted(table.to_pyarrow_table().column("x").to_pylist())


@pytest.mark.parametrize("fault", ["lost", "reset"])
def test_a_commit_whose_connection_is_reset_is_there_once_whether_or_not_the_server_took_it(
    tmp_path: Path, options: dict[str, str], fault: str
) -> None:
    direct = on_s3(tmp_path, options)
    for version in (0, 1):  # the first one creates the table
        with fault_proxy(options["AWS_ENDPOINT_URL"], Faults("commit", **{fault: 1.0}, most=1)) as proxy:
            unsure = on_s3(tmp_path, options, AWS_ENDPOINT_URL=proxy.address)
            assert append_rows(unsure, "t", pa.table({"x": [version]})) == version
            assert proxy.injected("commit")[fault] == 1
        assert numbers(open_table(direct, "t")) == list(range(version + 1))
        assert open_table(direct, "t").version() == version


def test_an_upload_whose_last_answer_is_lost_is_made_again(tmp_path: Path, options: dict[str, str]) -> None:
    with fault_proxy(options["AWS_ENDPOINT_URL"], Faults("end of upload", lost=1.0, most=1)) as proxy:
        append_rows(on_s3(tmp_path, options, AWS_ENDPOINT_URL=proxy.address), "t", pa.table({"x": [7]}))
        assert proxy.injected("end of upload")["lost"] == 1
    assert numbers(open_table(on_s3(tmp_path, options), "t")) == [7]


@pytest.mark.timeout(600)
def test_commits_of_spark_and_delta_rs_at_once_are_all_there_once_behind_a_failing_server_and_with_writers_killed(
    tmp_path: Path,
) -> None:
    figures = prove(tmp_path, spark_commits=8, delta_commits=24, kills={"spark": 1, "delta-rs": 3}, seed=7, limit_s=500)
    assert figures["commits"] == 64
    assert figures["kills"] == {"spark": 1, "delta-rs": 3}
    assert figures["faults"]["commit"]["lost"] > 0
