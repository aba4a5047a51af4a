"""Delta tables are read by Arrow's own file systems: the same rows as through delta-rs, whatever the paths have."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest
from deltalake import DeltaTable, write_deltalake

from forecache.base.settings import PROJECT_ROOT
from forecache.kit.delta.dataset import open_dataset, open_native

_VALUES = ["a b", "x%y", "100%25", "c:d", "ü", "s/t", "p?q#r", "a+b=c", "plain", None]
_HELPER = PROJECT_ROOT / "forecache/kit/delta/dataset.py"
_CODE = ("forecache", "assets", "resources", "jobs", "dagster_project", "examples", "benchmarks", "tests", "docs")
S3 = {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def test_partition_values_with_special_characters_are_found(tmp_path: Path) -> None:
    uri = str(tmp_path / "a folder 1%")
    write_deltalake(uri, pa.table({"k": _VALUES, "v": list(range(len(_VALUES)))}), partition_by=["k"])
    dataset = open_dataset(DeltaTable(uri))
    assert dataset.to_table().sort_by("v")["k"].to_pylist() == _VALUES
    some = open_dataset(DeltaTable(uri), partitions=[("k", "=", "x%y")])
    assert some.to_table()["v"].to_pylist() == [1]
    assert len(some.files) == 1


def test_a_folder_is_read_by_arrow_alone(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pa.table({"v": [1]}))
    for uri in (str(tmp_path), tmp_path.as_uri()):
        filesystem = open_dataset(DeltaTable(uri)).filesystem
        assert isinstance(filesystem.base_fs, pyarrow.fs.LocalFileSystem)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true"},
        {"aws_virtual_hosted_style_request": "true", "conditional_put": "etag", "timeout": "30s"},
        {"AWS_SKIP_SIGNATURE": "true"},
    ],
)
def test_a_bucket_is_read_by_arrow_alone(more: dict[str, str]) -> None:
    for scheme in ("s3", "s3a"):
        filesystem = open_native(f"{scheme}://bucket/la%20ke/t/", S3 | more)
        assert isinstance(filesystem, pyarrow.fs.SubTreeFileSystem)
        assert isinstance(filesystem.base_fs, pyarrow.fs.S3FileSystem)
        assert filesystem.base_path == "bucket/la ke/t/"


def test_what_arrow_cannot_open_is_left_to_delta_rs() -> None:
    assert open_native("gs://bucket/lake", {}) is None
    assert open_native("s3://bucket/lake", S3 | {"proxy_url": "http://proxy"}) is None


def test_no_code_reads_a_table_through_calls_of_python() -> None:
    """Such threads outlive a query, and crash or hang the end of the process: `open_dataset` opens a table instead."""
    files = [path for folder in _CODE for path in (PROJECT_ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    assert len(files) > 500
    found = []
    for path in files:
        place = path.relative_to(PROJECT_ROOT)
        # A test or a benchmark may read a whole table.
        name = "dataset" if place.parts[0] in ("tests", "benchmarks") else "(dataset|table)"
        if path != _HELPER and re.search(rf"\.to_pyarrow_{name}\(", path.read_text()):
            found.append(str(place))
    assert found == []
