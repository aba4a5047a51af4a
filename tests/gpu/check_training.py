"""Training by torchrun on the machine at hand, a GPU where there is one: `make test-gpu`, alone and without services.

Needs torch, pytest and the wheels that docs/how-to/models.md lists. Each check prints a line of what it measured.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_project.pipelines.visits import returns
from training_sample import sample_spec

from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.models.training.spec import METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch.launch import command, num_workers, resolve_precision, run_torchrun, worker_environment

TRAINING = Training(epochs=3, batch_size=256, learning_rate=0.01)
GPU = torch.cuda.is_available()
ROWS = 200_000 if GPU else 3_000


def prepared(folder: Path, training: Training, rows: int, **fields: Any) -> tuple[Settings, TrainingSpec]:
    """Default settings but for the home and the project, and a run as `forecache train` would specify it."""
    settings = load_settings(home=folder / "home", project="sample_project")
    training = resolve_precision(settings, training)
    spec = sample_spec(settings, returns, folder / "run", rows, inputs="gpu check", training=training, **fields)
    return settings, replace(spec, device=settings.device, export=False)


def run(settings: Settings, spec: TrainingSpec) -> dict[str, Any]:
    found = run_torchrun(settings, spec, on_event=lambda event: None)
    assert found["device"] == ("cuda" if GPU else "cpu")
    assert found["workers"] == num_workers(settings)
    return found


def tell(what: str, found: dict[str, Any], **more: Any) -> None:
    figures = {name: found[name] for name in ("device_name", "workers", "precision", "validation_loss")}
    rate = max(record["rows_per_s"] for record in found["history"])
    memory = found["usage"]["peak_device_memory_bytes" if GPU else "peak_memory_bytes"]
    line = {"kind": found["parallel"]["kind"], **figures, "rows_per_s": round(rate), "peak_bytes": memory, **more}
    print(f"\n{what}: {json.dumps(line)}")


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(*prepared(tmp_path_factory.mktemp("default"), TRAINING, ROWS))


def test_default_settings_train_here_in_the_type_of_the_device(default: dict[str, Any]) -> None:
    bfloat16 = GPU and torch.cuda.is_bf16_supported(including_emulation=False)
    assert default["precision"] == ("bfloat16" if bfloat16 else "float32")
    assert default["validation_loss"] < 0.69
    tell("default settings", default)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_shards_in_either_type_end_near_the_whole_network(
    default: dict[str, Any], tmp_path: Path, precision: Any
) -> None:
    found = run(*prepared(tmp_path, replace(TRAINING, parallel="fsdp", precision=precision), ROWS))
    assert (found["parallel"]["kind"], found["precision"]) == ("fsdp", precision)
    assert found["validation_loss"] == pytest.approx(default["validation_loss"], rel=0.05)
    tell("shards", found)


def test_a_run_that_is_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    settings, spec = prepared(tmp_path, TRAINING, ROWS, checkpoint_steps=10)
    spec.folder.mkdir()
    spec.save()
    log = subprocess.DEVNULL
    process = subprocess.Popen(
        command(settings, spec), env=worker_environment(settings), stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + 240
    events = spec.folder / METRICS_FILE
    while not (events.exists() and '"checkpoint"' in events.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (spec.folder / RESULT_FILE).exists(), "it had ended before it was killed: give it more rows"
    found = run(settings, spec)
    # On the same table: the order of samples is that of its files' names.
    alone = run(settings, replace(spec, run_dir=str(tmp_path / "alone")))
    assert found["weights_digest"] == alone["weights_digest"]
    assert found["sample_digests"] == alone["sample_digests"]
    tell("killed and resumed", found)


@pytest.mark.parametrize("batch_size", [256, 4_096, 65_536] if GPU else [256])
def test_rows_a_second_against_the_memory_that_they_take(tmp_path: Path, batch_size: int) -> None:
    training = replace(TRAINING, epochs=1, batch_size=batch_size)
    found = run(*prepared(tmp_path, training, ROWS * (5 if GPU else 1)))
    limit = found["usage"]["device_memory_bytes" if GPU else "machine_memory_bytes"]
    tell(f"batches of {batch_size:,}", found, limit_bytes=limit)
