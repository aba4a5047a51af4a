"""Room below the home folder for what does not fit memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forecache.own_folder import own_folder
from forecache.settings import Settings


def scratch_folder(settings: Settings) -> Path:
    folder = settings.home_path / "scoring"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def scratch_database(settings: Settings) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into a folder of its own in the scratch folder.

    DuckDB before 2.0 gives its files the same names in every process, and two that share a folder crash.
    """
    import duckdb

    with own_folder(scratch_folder(settings), "duckdb-") as folder:
        config: dict[str, Any] = {"memory_limit": "512MB", "temp_directory": str(folder)}
        with duckdb.connect(":memory:", config=config) as connection:
            yield connection
