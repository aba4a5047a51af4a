"""Sentences for errors of other libraries and the system, the same on the command line and in the UI."""

import sys

from forecache.base.errors import ForecacheError, UnavailableError, chain_of

EXTRA_OF = {
    "httptools": "reader",
    "lmdb": "reader",
    "numpy": "reader",
    "orjson": "reader",
    "prometheus_client": "reader",
    "uvloop": "reader",
    "httpx": "client",
    "deltalake": "lake",
    "duckdb": "lake",
    "pyarrow": "lake",
    "mlflow": "score",
    "onnx": "score",
    "onnxruntime": "score",
    "pandas": "score",
    "delta": "spark",
    "great_expectations": "spark",
    "pyspark": "spark",
    "jinja2": "recommend",
    "matplotlib": "train",
    "onnxscript": "train",
    "optuna": "train",
    "sklearn": "train",
    "skops": "train",
    "torch": "train",
    "dagster": "dagster",
    "dagster_pipes": "dagster",
    "dagster_webserver": "dagster",
    "dagster_k8s": "cluster",
    "dagster_postgres": "cluster",
    "psycopg2": "cluster",
    "implicit": "recommend",
    "scipy": "recommend",
    "threadpoolctl": "recommend",
    "redis": "redis",
    "boto3": "s3",
    "obstore": "s3",
    "psycopg": "sql",
    "sqlalchemy": "sql",
    "confluent_kafka": "stream",
    "fastavro": "stream",
}
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
        return UnavailableError(
            "The disk is full.", remedy="Free some space and run again: what was committed is kept."
        )
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
    return UnavailableError(
        f"{library} is not installed here, and this needs it.",
        remedy=f"Install the extra {extra!r}: pip install 'forecache[{extra}]'.",
    )
