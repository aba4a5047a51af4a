"""The specification of one training run: all that a worker needs, as one JSON file in the run's folder.

It holds no secrets: object store options reach the workers through their environment, as all settings do.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from forecache.files import write_durably
from forecache.pipeline import Pipeline, Training
from forecache.settings import Settings

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
ERROR_FILE = "error.json"
METRICS_FILE = "metrics.jsonl"
HEARTBEAT_FILE = "heartbeat"
CHECKPOINTS = "checkpoints"
LANES = 8
ONNX_FILE = "model.onnx"
TORCH_FILE = "model.pt2"

MODEL_FILES = {"onnx": ONNX_FILE, "lightgbm": "model.lgb", "xgboost": "model.json", "sklearn": "model.skops"}
"""The file of a trained model by the engine that scores it: in a run's folder, and as MLflow names it in a model's."""


@dataclass(frozen=True)
class TrainingSpec:
    """One training run.

    Attributes:
        run_dir: Folder of the run; on several nodes it must be shared by all.
        table_uri: The training table as delta-rs takes it.
        table_version: Its pinned Delta version.
        inputs: What the result depends on; a checkpoint of other inputs is refused.
        training: The declaration's `Training`, or a variation of it.
        lanes: Parallel streams that the sample order is made of; at least the number of workers.
        shuffle_rows: Rows, over all lanes, within which a row can move.
        cache_bytes: Decoded training rows that a worker keeps in memory, where all of them fit; else it streams.
        checkpoint_steps: A checkpoint is written every so many steps, and at the end of each epoch.
        keep_checkpoints: Newest checkpoints kept.
        checkpoints: Folder or URI of the run's checkpoints; "": in the run's folder.
        device: "auto", "cpu" or "cuda".
        export: Whether the trained model is exported; a trial of a search is not.
    """

    run_dir: str
    pipeline: str
    table_uri: str
    table_version: int
    inputs: str
    training: Training
    lanes: int = LANES
    shuffle_rows: int = 1 << 18
    cache_bytes: int = 1 << 27
    checkpoint_steps: int = 200
    keep_checkpoints: int = 2
    checkpoints: str = ""
    device: str = "auto"
    export: bool = True

    @property
    def folder(self) -> Path:
        return Path(self.run_dir)

    def save(self) -> Path:
        """Write `spec.json` into the run's folder, whole or not at all: other nodes look for it."""
        path = self.folder / SPEC_FILE
        write_durably(path, json.dumps(asdict(self), indent=2))
        return path

    def applied_to(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with this run's `Training` in place of the declared one."""
        return replace(pipeline, training=self.training)


def checkpoints_of(settings: Settings, run_dir: Path) -> str:
    """`TrainingSpec.checkpoints` of a run's folder: under the place that the settings name, if any."""
    if not settings.training_checkpoints:
        return ""
    return f"{settings.training_checkpoints}/{run_dir.relative_to(settings.training_path).as_posix()}"


def load_spec(path: Path) -> TrainingSpec:
    """Read a specification that `TrainingSpec.save` wrote."""
    values = json.loads(path.read_text())
    return TrainingSpec(**{**values, "training": Training(**values["training"])})
