"""Errors of Spark, Arrow, delta-rs and object stores, translated to those of Forecache: damaged files, refused values.

Used in Spark's Python workers too: imports neither settings nor, before an error, deltalake.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from forecache.base.errors import ConflictError, DamagedError, ForecacheError, InputError, UnavailableError
from forecache.base.table_names import FEATURES, PREDICTIONS, QUARANTINE, RAW, TILES, TRAINING_SET


def type_mismatch_error(table: str, column: str, known: object, given: object) -> InputError:
    """The error for a column that has another type in the table."""
    return InputError(
        f"The table {table!r} holds a column of another type than the rows to be written: {column!r} is "
        f"{known} there and {given} here.",
        remedy="Give the changed column a new name, or remove the table and build it anew.",
    )


_GONE = re.compile(r"FILE_NOT_EXIST\][^\n]* file (?P<file>\S+?)\. ")


def as_known_error(name: str, error: Exception) -> ForecacheError | None:
    """Translate an error of a write that a user can act on; None for any other."""
    text = str(error)
    if "No space left on device" in text or "os error 28" in text:
        return UnavailableError(
            f"The disk is full: the write to table {name!r} was given up and the table is as it was.",
            remedy="Free some space and run again.",
        )
    if type(error).__name__ == "CommitFailedError" or "table already exists" in text:
        return ConflictError(
            f"Other processes (runs, streams, log committers, maintenance) kept changing the table {name!r} meanwhile.",
            remedy="Run the same command again; nothing is written twice.",
        )
    return as_missing_file_error(error)


@contextmanager
def translate_errors(translate: Callable[[Exception], ForecacheError | None]) -> Iterator[None]:
    """Raise the translation of an error of the block instead of it, if there is one."""
    try:
        yield
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        raise known from error


def as_missing_file_error(error: Exception) -> UnavailableError | None:
    """Translate an error of a read whose file was removed; None for any other."""
    found = _GONE.search(str(error))
    return found and UnavailableError(
        f"A file went while it was being read: {found['file']}.",
        remedy="Run again. If that helps not, its table still names a file that somebody removed: restore the file.",
    )


def as_store_error(name: str, error: Exception) -> UnavailableError | None:
    """Translate a transient error of an object store; None for any other.

    Retrying is safe: an entry that is still being written can only become the version that is tried again, where its
    mark is found.
    """
    if not isinstance(error, OSError) or isinstance(error, PermissionError):
        return None
    return UnavailableError(
        f"The object store failed a commit to the table {name!r}: {str(error).splitlines()[-1].strip()}.",
        remedy="Run again; what is committed is not written twice.",
    )


REFUSED = "forecache refuses:"
"""Marks the message of a refused value in the error of a Spark job; the message ends at the end of the line."""


def as_refusal(error: Exception) -> InputError | None:
    """The error of a value that a task refused; None if the Spark job failed for another reason."""
    found = re.search(rf"{REFUSED} ([^\n]*)", str(error))
    if found is None:
        return None
    sentence = found[1].partition(" SQLSTATE")[0].strip(" '\"")
    return InputError(sentence, remedy="Correct the feature function or the declaration; nothing was written.")


LOG = "_delta_log"
_DEEP = "`forecache doctor --deep` names every such file, its table and what to do."
_REMEDIES = (
    (PREDICTIONS, "`forecache run PIPELINE --date DATE --rebuild` scores the date again."),
    (FEATURES, "`forecache run PIPELINE --date DATE --rebuild` builds the date's features again."),
    (TILES, "Delete the table's folder: the next nightly run makes its tiles again."),
    (TRAINING_SET, "`forecache train PIPELINE` builds the training set again."),
    (RAW, "Restore the file from a copy: what was ingested is not read from the landing zone again."),
    (QUARANTINE, "Restore the file from a copy, or do without: only rows that were set aside are in it."),
    ("", "Restore the file from a copy of the lake."),
)
_SIGNS = (
    "thrift", "parquet", "snappy", "zstd", "decompress", "corrupt", "page", "levels", "encod", "end of stream",
    "histogram", "dictionary", "byte_stream_split",
)  # fmt: skip


def remedy_for(table: str, path: str = "") -> str:
    """The remedy for a damaged file of a table; `path` is relative to the table."""
    if path.startswith(LOG):
        return "Restore the file from a copy of the lake: the table cannot be read or written without it."
    return next(remedy for prefix, remedy in _REMEDIES if table.startswith(prefix))


def damaged_file(path: str, table: str = "") -> DamagedError:
    """The error for a missing or damaged file; `table` is "" if it is not known."""
    kind = "log" if path.startswith(LOG) else "data"
    whose = f" of the table {table!r}" if table else ""
    remedy = f"{remedy_for(table, path)} " if table else ""
    return DamagedError(f"The {kind} file {path}{whose} is missing or damaged.", remedy=f"{remedy}{_DEEP}")


@contextmanager
def open_data_file(filesystem: Any, path: str, table: str) -> Iterator[Any]:
    """Open a data file of a table, which has to exist, while the block runs; DamagedError if it is not Parquet."""
    import pyarrow as pa

    try:
        with filesystem.open_input_file(path) as source:
            yield source
    except (pa.ArrowInvalid, OSError) as error:
        # Arrow raises OSError both for a file that does not decode and for an object store that does not answer.
        is_decoding = isinstance(error, pa.ArrowInvalid) or any(sign in str(error).lower() for sign in _SIGNS)
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) or not is_decoding:
            raise
        raise damaged_file(path, table) from error
