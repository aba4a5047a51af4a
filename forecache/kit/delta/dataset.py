"""Arrow datasets of Delta tables, read by Arrow's own file systems from a disk or a bucket, without calls to Python.

Arrow's threads would call delta-rs's file system through Python. A query with a limit returns while these threads still
read ahead, and their calls into an interpreter that shuts down crash or hang the process.
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pyarrow.fs

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyarrow.dataset import Expression, FileSystemDataset

# delta-rs's options of S3, without their prefix `aws_`, to the arguments of Arrow's client; the first that is set wins.
_CREDENTIALS = {
    "access_key_id": "access_key",
    "secret_access_key": "secret_key",
    "session_token": "session_token",
    "token": "session_token",
}
_PLACE = {"endpoint_url": "endpoint", "endpoint": "endpoint", "region": "region", "default_region": "region"}
_WAYS = {"virtual_hosted_style_request": "force_virtual_addressing", "skip_signature": "anonymous"}
# Options of writes, timeouts and retries.
_WITHOUT_EFFECT = {
    "allow_http", "checksum_algorithm", "conditional_put", "connect_timeout", "copy_if_not_exists", "disable_tagging",
    "max_retries", "retry_timeout", "s3_allow_unsafe_rename", "s3_express", "timeout", "unsigned_payload",
}  # fmt: skip
_TRIES = 6
_BATCH_ROWS = 1 << 16
_CONNECT_S = 10.0


def open_dataset(delta: "DeltaTable", *, partitions: list[tuple[str, str, Any]] | None = None) -> "FileSystemDataset":
    """Open a table, as of the version at which it is open, for Arrow or DuckDB to read.

    A table with features that only Spark reads, such as deletion vectors, raises DeltaProtocolError.

    Args:
        partitions: Conditions on partition columns, as (column, operator, value); files of others are left out.
    """
    filesystem = open_native(delta.table_uri, delta._storage_options or {})
    return delta.to_pyarrow_dataset(file_pruning_predicate=partitions, filesystem=filesystem)


def read_few_ahead(
    dataset: "FileSystemDataset", columns: Sequence[str], *, where: "Expression | None" = None
) -> "pyarrow.RecordBatchReader":
    """Read columns of a dataset once, a few batches ahead, in memory that does not grow with its files."""
    from pyarrow.dataset import ParquetFragmentScanOptions

    # A pre-buffered file would be held in memory as a whole.
    options = ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    return dataset.scanner(
        list(columns),
        where,
        batch_size=_BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
        fragment_scan_options=options,
    ).to_reader()


def open_native(uri: str, options: Mapping[str, str]) -> pyarrow.fs.FileSystem | None:
    """Open Arrow's own file system, rooted at a path or URL-encoded URI, for reading; None if it has none.

    `options` are those of delta-rs for the object store; what they lack is taken from `AWS_...` variables.
    """
    if "://" not in uri:
        return pyarrow.fs.SubTreeFileSystem(uri, pyarrow.fs.LocalFileSystem())
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return pyarrow.fs.SubTreeFileSystem(unquote(parts.path), pyarrow.fs.LocalFileSystem())
    arguments = _s3_arguments(options) if parts.scheme in ("s3", "s3a") else None
    if arguments is None:
        return None
    return pyarrow.fs.SubTreeFileSystem(parts.netloc + unquote(parts.path), _s3(tuple(sorted(arguments.items()))))


def _s3_arguments(options: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of Arrow's S3 client for options of delta-rs; None if it has no argument for one of them."""
    given = {key.lower().removeprefix("aws_"): value for key, value in options.items()}
    if given.keys() - {*_CREDENTIALS, *_PLACE, *_WAYS, *_WITHOUT_EFFECT}:
        return None
    outside = {key.lower().removeprefix("aws_"): value for key, value in os.environ.items() if key.startswith("AWS_")}
    given = {**{name: outside[name] for name in (*_PLACE, *_WAYS) if name in outside}, **given}
    found: dict[str, Any] = {
        argument: True for name, argument in _WAYS.items() if given.get(name, "").lower() in ("true", "1")
    }
    # Without keys, Arrow's client looks for those of the workload, as delta-rs does.
    has_keys = given.get("access_key_id") and given.get("secret_access_key") and "anonymous" not in found
    for name, argument in {**(_CREDENTIALS if has_keys else {}), **_PLACE}.items():
        if given.get(name):
            found.setdefault(argument, given[name])
    if endpoint := found.pop("endpoint", ""):
        scheme, _, found["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
        found["scheme"] = scheme or "https"
        found.setdefault("region", "us-east-1")
    return found


@lru_cache(maxsize=8)
def _s3(arguments: tuple[tuple[str, Any], ...]) -> pyarrow.fs.FileSystem:
    retries = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES)
    return pyarrow.fs.S3FileSystem(**dict(arguments), connect_timeout=_CONNECT_S, retry_strategy=retries)
