"""What importing the reader loads: the store and light libraries, nothing of the batch side."""

import subprocess
import sys

import forecache.serve.reader

HEAVY = (
    "pyspark", "torch", "mlflow", "dagster", "pandas", "pyarrow", "numpy", "deltalake", "duckdb", "matplotlib",
    "great_expectations", "sklearn", "onnxruntime", "delta",
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_server_loads_nothing_heavy_nor_the_client_library() -> None:
    loaded = loaded_by("from forecache.serve.reader import serve, create_token\nimport forecache.serve.reader.http.app")
    assert "httptools" in loaded
    assert loaded.isdisjoint({*HEAVY, "httpx"})


def test_the_client_loads_nothing_heavy_nor_the_server() -> None:
    loaded = loaded_by("from forecache.serve.reader import Client, AsyncClient, Answer")
    assert "httpx" in loaded
    assert loaded.isdisjoint({*HEAVY, "httptools"})


def test_the_public_names_are_these_and_all_resolve() -> None:
    assert forecache.serve.reader.__all__ == [
        "Answer", "AsyncClient", "Client", "RealtimeAnswer", "create_token", "list_tokens", "revoke_token", "serve",
    ]  # fmt: skip
    for name in forecache.serve.reader.__all__:
        assert getattr(forecache.serve.reader, name).__name__ == name
