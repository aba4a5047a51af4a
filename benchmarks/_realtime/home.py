"""The home folder that our reader serves: feature tables, published views, registered models, releases."""

import contextlib
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import machine
from _store.processes import PYTHON, BenchmarkError, free_port, running
from _store.progress import say
from deltalake import DeltaTable, write_deltalake

from _realtime import case

PROJECT = Path(__file__).parent / "project"
PACKAGE = "bench_ranking"
os.environ["FORECACHE_PROJECT"] = PACKAGE
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from bench_ranking.pipelines import rank  # noqa: E402

from forecache.base.settings import Settings, load_settings  # noqa: E402
from forecache.serve.store.publishing.publish import publish  # noqa: E402

VIEWS = {
    "household": (case.HOUSEHOLD, case.HOUSEHOLD_FEATURES),
    "product": (case.PRODUCT, case.PRODUCT_FEATURES),
    "wide": ("wide_id", case.WIDE_FEATURES),
}
_CHUNK, _PATIENCE = 100_000, 100


def features_table(view: str, ids: np.ndarray, stamp: int = 0) -> pa.Table:
    """Rows of the night for these keys, int64 [n]."""
    key, names = VIEWS[view]
    matrix = case.features_of(key, ids, len(names), stamp)
    night = pa.array([rank.NIGHT] * len(ids), pa.date32())
    return pa.table({key: ids, "as_of": night, **{name: matrix[:, place] for place, name in enumerate(names)}})


def write_features(settings: Settings, view: str, keys: int) -> None:
    """A view's table with one night of so many keys."""
    uri = settings.table_uri(f"features_{view}")
    shutil.rmtree(uri, ignore_errors=True)
    chunks = (np.arange(first, min(first + _CHUNK, keys)) for first in range(0, keys, _CHUNK))
    batches = (batch for ids in chunks for batch in features_table(view, ids).to_batches())
    schema = features_table(view, np.arange(0)).schema
    write_deltalake(
        uri,
        pa.RecordBatchReader.from_batches(schema, batches),
        partition_by=["as_of"],
        configuration={"delta.enableChangeDataFeed": "true"},
    )


def change(settings: Settings, view: str, ids: np.ndarray, stamp: int) -> None:
    """Give some keys of a view's night other features, by a MERGE as a late correction is."""
    key, _ = VIEWS[view]
    condition = f"target.as_of = DATE '{rank.NIGHT}' AND target.{key} = source.{key}"
    table = DeltaTable(settings.table_uri(f"features_{view}"))
    merge = table.merge(features_table(view, ids, stamp), condition, source_alias="source", target_alias="target")
    merge.when_matched_update_all().execute()


def published(folder: Path, views: dict[str, int]) -> Settings:
    """A home that serves these views with so many keys; published anew where they or the commit differ."""
    settings = load_settings(home=folder)
    for view, keys in views.items():
        stamp = folder / f"{view}.published"
        state = f"{keys} {machine.commit()}"  # the format of a store is that of the code
        if not stamp.exists() or stamp.read_text() != state:
            say(f"publishing {keys:,} keys of the view {view}")
            write_features(settings, view, keys)
            publish(settings, getattr(rank, view), full=True)
            stamp.write_text(state)
    return settings


def released(settings: Settings, models: Path, name: str, seed: int = 0) -> dict[str, Any]:
    """Register a model's file in the home's MLflow, as a team does that trains elsewhere, and release it.

    Args:
        seed: Another one is another model; see `case.write_models`.
    """
    import lightgbm
    import mlflow
    import mlflow.lightgbm
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from forecache.models.tracking.client import connect_mlflow
    from forecache.operations.release import release_model

    client = connect_mlflow(settings)
    inputs = Schema([ColSpec(DataType.float, feature) for feature in case.FEATURES])
    signature = ModelSignature(inputs, Schema([ColSpec(DataType.float, "score")]))
    mlflow.set_experiment("bench")
    with mlflow.start_run():
        if name == case.TREES:
            booster = lightgbm.Booster(model_file=str(case.file_of(models, name, seed)))
            logged = mlflow.lightgbm.log_model(booster, name=name, signature=signature, pip_requirements=["lightgbm"])
        else:
            graph = onnx.load(case.file_of(models, name, seed))
            logged = mlflow.onnx.log_model(graph, name=name, signature=signature, pip_requirements=["onnxruntime"])
    version = mlflow.register_model(logged.model_uri, name).version
    client.set_registered_model_alias(name, "champion", version)
    requests = [case.encoded(body) for body in case.bodies(50, 1000, seed=9)]
    return dict(release_model(settings, getattr(rank, name), warmup=requests).details)


def serving(folder: Path, models: Path, keys: int, names: tuple[str, ...]) -> Settings:
    """A home that answers these models' requests over views of so many keys."""
    settings = published(folder, {"household": keys, "product": keys})
    for name in names:
        released(settings, models, name)
    return settings


@contextlib.contextmanager
def reader(settings: Settings, *names: str, core: int | None, port: int = 0, **environment: str) -> Iterator[int]:
    """`forecache serve` with one worker while the block runs; yields its port once these models answer."""
    port = port or free_port()
    command = [PYTHON, "-m", "forecache.cli.main", "serve", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    with running(
        list(map(str, command)),
        log=settings.home_path / "reader.log",
        ready=lambda: all(_answers(port, name) for name in names),
        core=core,
        environment={"FORECACHE_HOME": str(settings.home_path), **environment},
    ):
        yield port


def _answers(port: int, name: str) -> bool:
    """Whether the model itself answers: what is asked before it is warm is answered by a fallback."""
    try:
        answer = ask(port, f"/v1/{name}", case.bodies(1, 100, seed=1)[0])
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return bool(answer.get("answered_by") == "model")


def ask(port: int, path: str, body: Any) -> dict[str, Any]:
    """The answer to one request.

    Raises:
        HTTPError: It has no 2xx status.
    """
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", case.encoded(body), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def by_model(port: int, name: str, body: Any) -> dict[str, Any]:
    """An answer of the reader whose items are all the model's: on a busy machine one may come from a fallback.

    Raises:
        BenchmarkError: Too many answers were not.
    """
    for _ in range(_PATIENCE):
        answer = ask(port, f"/v1/{name}", body)
        if answer.get("answered_by") == "model":
            return answer
    raise BenchmarkError(f"{name} answered {_PATIENCE} times without its model: the machine is too busy.")


def released_as_it_is(settings: Settings, name: str) -> dict[str, Any]:
    """Release a model that need not be registered: a function of the project, or one that another has registered."""
    from forecache.operations.release import release_model

    requests = [case.encoded(body) for body in case.bodies(50, 1000, seed=9)]
    return dict(release_model(settings, getattr(rank, name), warmup=requests).details)
