"""Real processes that start warm: forked from a server that has imported much and opened nothing."""

import json
import multiprocessing
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_MODULES = [
    "deltalake",
    "duckdb",
    "forecache.kit.delta.tables",
    "forecache.lake.quality.stage_checks",
    "forecache.models.registry.model_versions",
    "forecache.night",
    "forecache.plugins.alerts.notify",
    "forecache.plugins.drift.prediction_drift",
    "forecache.plugins.estimators.fit",
    "forecache.plugins.lineage.stages",
    "forecache.plugins.model_reports.plots",
    "forecache.plugins.trials.run_trial",
    "forecache.plugins.window_features.tasks",
    "forecache.runs",
    "forecache.scoring.run",
    "forecache.stream.engine.arrow_engine",
    "git",
    "jinja2",
    "lightgbm",
    "matplotlib.backends.backend_svg",
    "matplotlib.projections",
    "mlflow.lightgbm",
    "mlflow.onnx",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.tracking",
    "onnx",
    "onnxruntime",
    "pyarrow.acero",
    "pyarrow.csv",
    "pyarrow.dataset",
    "skops.io",
    "sqlalchemy.dialects.sqlite",
    "sqlglot.dialects.duckdb",
    # What a rank of a training needs, as forecache.plugins.torch.agent has it.
    "forecache.plugins.torch.worker.run",
    "torch._dynamo",
]


@lru_cache(maxsize=1)
def processes() -> Any:
    """The context that starts them; the server lives as long as the test process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    return context


def start(target: Callable[..., None], *arguments: object) -> Any:
    process = processes().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def start_with_trainers(target: Callable[..., None], *arguments: object) -> Any:
    """Start a process whose trainings are forks of the same server, which do not end with it if it is killed."""
    processes()
    forkserver.ensure_running()
    return start(_with_trainers, forkserver._forkserver._forkserver_address, target, *arguments)  # type: ignore[attr-defined]


def _with_trainers(server: str, target: Callable[..., None], *arguments: object) -> None:
    from warm_agents import warm_agents

    found: Any = forkserver._forkserver  # type: ignore[attr-defined]
    found._forkserver_address, found.ensure_running = server, lambda: None  # it is the parent of this process
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it has trainers
    with warm_agents("forecache.models.training.process"):
        target(*arguments)


def log_of(table_uri: str) -> list[list[dict[str, Any]]]:
    """The actions of every entry of a table's log, in order."""
    entries = sorted(Path(table_uri, "_delta_log").glob("*.json"))
    return [[json.loads(line) for line in entry.read_text().splitlines() if line] for entry in entries]


def assert_valid_log(table_uri: str) -> None:
    """No entry names a path twice, what is removed was there, and what is added was not."""
    active: set[str] = set()
    for version, actions in enumerate(log_of(table_uri)):
        added = [action["add"]["path"] for action in actions if "add" in action]
        removed = [action["remove"]["path"] for action in actions if "remove" in action]
        named = [*added, *removed]
        assert len(named) == len(set(named)), f"version {version} names a path twice: {sorted(named)}"
        assert set(removed) <= active, f"version {version} removes what was not there"
        assert not set(added) & active, f"version {version} adds what was there"
        active = (active - set(removed)) | set(added)


def die(process: Any) -> None:
    """End a process with SIGKILL, if it has not ended yet, and wait for it."""
    process.kill()
    process.join()
