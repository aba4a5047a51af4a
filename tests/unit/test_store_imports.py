"""Reading the store loads nothing heavy: a reader starts fast and stays small."""

import subprocess
import sys

import forecache.serve.store

_HEAVY = (
    "pyarrow",
    "deltalake",
    "pandas",
    "numpy",
    "pyspark",
    "torch",
    "mlflow",
    "dagster",
    "duckdb",
    "redis",
    "obstore",
)


def test_opening_and_reading_a_store_loads_nothing_heavy() -> None:
    script = (
        "import sys; from pathlib import Path; import forecache.serve.store as s\n"
        "s.Store(Path('/nonexistent')).current()\n"
        f"print([name for name in {_HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_all_there() -> None:
    assert sorted(forecache.serve.store.__all__) == list(forecache.serve.store.__all__)
    for name in forecache.serve.store.__all__:
        assert getattr(forecache.serve.store, name).__name__ == name
