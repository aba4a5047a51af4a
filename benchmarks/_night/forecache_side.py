"""Forecache in a process of its own: `python -m _night.forecache_side HOME prepare|night`, JSON as its last line."""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from _night.data import DAYS, MODEL, NAMES, NIGHT, PURCHASE, PURCHASES, booster
from _night.stages import Stages
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.lake.quality.pending_files import ProcessRun, ingest_pending
from forecache.night import run_declaration


class MeasuredRun(ProcessRun):
    """A run that records each stage, and the checks between two."""

    def __init__(self, settings: Settings, stages: Stages) -> None:
        super().__init__(settings)
        self.stages, self._last = stages, "start"

    def run_stage(self, stage: Callable[..., StageResult], *arguments: Any, **more: Any) -> StageResult:
        self.end_checks()
        result = super().run_stage(stage, *arguments, **more)
        self._last = result.stage
        self.stages.end(self._last)
        return result

    def end_checks(self) -> None:
        """End what follows a stage: its checks and what is prepared for the next one."""
        self.stages.end(f"after {self._last}")


def settings_of(home: Path) -> Settings:
    return load_settings(home=home, spark_master="local[2]", code_version="benchmark")


def main() -> None:
    stages, home, what = Stages(), Path(sys.argv[1]), sys.argv[2]
    settings = settings_of(home)
    with stages.watching():
        stages.end("imports")
        run = MeasuredRun(settings, stages)
        if what == "prepare":
            _register(settings)
            stages.end("model")
            for day in DAYS[:-1]:
                ingest_pending(run, PURCHASES, last=day)
        run_declaration(run, PURCHASE, [NIGHT if what == "night" else NIGHT - timedelta(days=1)])
        run.end_checks()
    rows = {result.stage: result.rows for result in run.results}
    engines = {result.stage: result.details["engine"] for result in run.results if "engine" in result.details}
    print(json.dumps({"stages": stages.found, "rows": rows, "engines": engines}))


def _register(settings: Settings) -> None:
    import mlflow.lightgbm
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    from forecache.models.tracking.client import connect_mlflow

    client = connect_mlflow(settings)
    takes, gives = [ColSpec("float", name) for name in NAMES], [ColSpec("double", "probability")]
    logged = mlflow.lightgbm.log_model(
        booster(),
        name="model",
        signature=ModelSignature(Schema(takes), Schema(gives)),
        registered_model_name=MODEL,
        pip_requirements=["lightgbm"],
    )
    client.set_registered_model_alias(MODEL, "production", logged.registered_model_version)


if __name__ == "__main__":
    main()
