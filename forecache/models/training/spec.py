"""The files of a run's folder by which parent and workers communicate: specification, events, heartbeat, error.

The specification contains no secrets: object store options reach the workers through their environment, as all settings
do. Events are one JSON object a line. The heartbeat has step and time in a memory-mapped file, which survives SIGKILL.
"""

import json
import mmap
import os
import struct
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.files import write_durably
from forecache.base.folders import Folder, open_folder
from forecache.base.settings import Settings
from forecache.declare import EntitySplit, Trainable, Training

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
ERROR_FILE = "error.json"
METRICS_FILE = "metrics.jsonl"
HEARTBEAT_FILE = "heartbeat"
CHECKPOINTS = "checkpoints"
LANES = 8
ONNX_FILE = "model.onnx"
TORCH_FILE = "model.pt2"
REFIT = "refit"
"""Folder, in the run's, of the model that was fitted again on all labelled dates, under the same file name."""

MODEL_FILES = {"onnx": ONNX_FILE, "lightgbm": "model.lgb", "xgboost": "model.json", "sklearn": "model.skops"}
"""File name of a trained model by the runtime that scores it, in the run's folder and in MLflow's model folder."""


@dataclass(frozen=True)
class TrainingSpec:
    """One training run.

    Attributes:
        cache_bytes: A worker keeps its decoded rows in memory if all of them fit in this size; otherwise it streams.
    """

    run_dir: str  # folder of the run on this machine
    pipeline: str
    table_uri: str  # URI of the training table for delta-rs
    table_version: int  # its pinned Delta version
    inputs: str  # text that identifies everything the result depends on; a checkpoint with other inputs is refused
    training: Training  # the declaration's `Training`, or a variation of it
    lanes: int = LANES  # parallel streams that the sample order is made of; at least the number of workers
    shuffle_rows: int = 1 << 18  # rows of a shuffle window, over all lanes
    cache_bytes: int = 1 << 27
    checkpoint_steps: int = 200  # steps between checkpoints; another one is written at the end of each epoch
    keep_checkpoints: int = 2  # number of newest checkpoints to keep
    checkpoints: str = ""  # folder or URI of what all machines find of the run; "": its folder, on this machine alone
    device: str = "auto"  # "auto", "cpu" or "cuda"
    vocabularies: dict[str, list[str]] = field(default_factory=dict)  # categories that the run has learned, by feature
    export: bool = True  # whether to export the trained model; trials of a search do not

    @property
    def folder(self) -> Path:
        return Path(self.run_dir)

    def save(self) -> Path:
        """Write `spec.json` into the run's folder atomically, because other nodes poll for it."""
        path = self.folder / SPEC_FILE
        write_durably(path, self.to_json())
        return path

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def applied_to(self, pipeline: Trainable) -> Trainable:
        """The pipeline with this run's `Training` in place of the declared one."""
        return pipeline.replace_training(self.training)


def training_root(settings: Settings) -> str:
    """Folder or URI of what all machines find of trainings: the setting, else in a remote lake, else in the home."""
    in_lake = f"{settings.lake_uri}/.training" if settings.lake_is_remote else str(settings.training_path)
    return settings.training_checkpoints or in_lake


def checkpoints_of(settings: Settings, run_dir: Path) -> str:
    """`TrainingSpec.checkpoints` for a run's folder: below `training_root`, "" if that is in the home."""
    root = training_root(settings)
    if root == str(settings.training_path):
        return ""
    return f"{root}/{run_dir.relative_to(settings.training_path).as_posix()}"


def open_run_files(settings: Settings, uri: str, *, patience_s: float | None = None) -> Folder:
    """Open `training_root`, or a run's folder in it."""
    setting = "FORECACHE_TRAINING_CHECKPOINTS"
    return open_folder(uri, settings.storage_options, setting=setting, patience_s=patience_s)


def load_spec(path: Path) -> TrainingSpec:
    return read_spec(path.read_bytes())


def read_spec(content: bytes) -> TrainingSpec:
    values = json.loads(content)
    training = values["training"]
    split = training["split"] and EntitySplit(**training["split"])
    return TrainingSpec(**{**values, "training": Training(**{**training, "split": split})})


class Events:
    def __init__(self, spec: TrainingSpec) -> None:
        self.path = spec.folder / METRICS_FILE

    def __call__(self, event: str, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")


def report_nothing(event: str, **values: Any) -> None:
    """Reports nothing, for ranks other than 0."""


_LAYOUT = struct.Struct("<qd")


class Heartbeat:
    """Written by rank 0; `before` is the (step, time) that the previous attempt left, (0, 0.0) in the first."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            if path.stat().st_size < _LAYOUT.size:
                file.truncate(_LAYOUT.size)
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.before: tuple[int, float] = _LAYOUT.unpack_from(self._map)

    def beat(self, step: int) -> None:
        _LAYOUT.pack_into(self._map, 0, step, time.time())


def write_error(spec: TrainingSpec, error: Exception) -> None:
    """Write `error.json` for the parent, atomically; the first rank to fail wins."""
    description = {
        "type": type(error).__name__,
        "message": error.message if isinstance(error, ForecacheError) else str(error),
        "remedy": error.remedy if isinstance(error, ForecacheError) else "",
        "traceback": traceback.format_exc(),
        "rank": int(os.environ["RANK"]),
    }
    unfinished = spec.folder / f".{ERROR_FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps(description))
    try:
        os.link(unfinished, spec.folder / ERROR_FILE)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
