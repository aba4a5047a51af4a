"""Sentences for errors of other libraries and the system, the same on the command line and in the UI."""

import sys

from forecache.base.errors import ForecacheError, UnavailableError, chain_of

_LIBRARIES = {
    "reader": "httptools lmdb numpy orjson prometheus_client uvloop",
    "client": "httpx",
    "lake": "deltalake duckdb pyarrow sqlglot",
    "local": "alembic lightgbm sklearn skops",
    "score": "mlflow onnx onnxruntime pandas",
    "spark": "delta great_expectations pyspark",
    "recommend": "jinja2 implicit scipy threadpoolctl",
    "train": "matplotlib onnxscript optuna torch",
    "dagster": "dagster dagster_pipes dagster_webserver",
    "cluster": "dagster_k8s dagster_postgres psycopg2",
    "redis": "redis",
    "s3": "boto3 obstore",
    "sql": "psycopg sqlalchemy",
    "stream": "confluent_kafka fastavro",
}
EXTRA_OF = {library: extra for extra, libraries in _LIBRARIES.items() for library in libraries.split()}
"""By the name that a library is imported under, the smallest extra that has it."""
_READ_ONLY = ("read-only file system", "readonly database", "unable to open database file")


def explain_error(error: BaseException, *, hint: str = "") -> ForecacheError:
    """The Forecache error that an error was caused by or is equivalent to.

    Args:
        hint: Remedy of an unknown error, of which only the text is shown.
    """
    for each in chain_of(error):
        known = _known_error(each)
        if known is not None:
            return known
        if isinstance(each.__cause__, ForecacheError):
            return each.__cause__
    # An error about a table needs delta-rs, which the reader's environment does not have.
    if "deltalake" in sys.modules:
        from forecache.kit.delta.damage import as_damaged_error

        damaged = as_damaged_error(error)
        if damaged is not None:
            return damaged
    first_line = (str(error).strip().splitlines() or [""])[0]
    return ForecacheError(f"{type(error).__name__}: {first_line[:300].rstrip('.')}.", remedy=hint)


def _known_error(error: BaseException) -> UnavailableError | None:
    """The error for one of Python, the operating system or SQLite that a user can act on; None for others."""
    if isinstance(error, ModuleNotFoundError):
        return _missing_library_error(error.name or "")
    if "No space left on device" in str(error):
        remedy = "Free some space and run again: what was committed is kept."
        return UnavailableError("The disk is full.", remedy=remedy)
    place = getattr(error, "filename", None)
    text = str(error).lower()
    if any(sign in text for sign in _READ_ONLY):
        return UnavailableError(
            f"{place or 'FORECACHE_HOME'} cannot be written: it is on a read-only disk, or belongs to somebody else.",
            remedy="Set FORECACHE_HOME to a folder of yours; queries and `get` work as it is.",
        )
    if isinstance(error, PermissionError):
        said = f"{place}: permission denied." if place else f"{type(error).__name__}: {error}."
        remedy = "Give this user access to it, or set FORECACHE_HOME if that is somebody else's."
        return UnavailableError(said, remedy=remedy)
    return None


def _missing_library_error(module: str) -> UnavailableError | None:
    library = module.partition(".")[0]
    if library not in EXTRA_OF:
        return None
    extra = EXTRA_OF[library]
    remedy = f"Install the extra {extra!r}: pip install 'forecache[{extra}]'."
    return UnavailableError(f"{library} is not installed here, and this needs it.", remedy=remedy)
