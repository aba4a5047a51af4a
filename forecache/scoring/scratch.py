"""Room below the home folder for what does not fit memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forecache.settings import Settings


def scratch_folder(settings: Settings) -> Path:
    folder = settings.home_path / "scoring"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def scratch_database(settings: Settings) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into the scratch folder."""
    import duckdb

    config: dict[str, Any] = {"memory_limit": "512MB", "temp_directory": str(scratch_folder(settings))}
    with duckdb.connect(":memory:", config=config) as connection:
        yield connection
