"""SIGTERM during an evaluation, and a worker lost by a network in shards and by a user's own training function."""

import json
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from _training.chaos import workers_of
from loop_project.pipelines.loops import own, sharded, slow
from registry_sample import NIGHT
from training_sample import sample_spec
from waiting import wait_for
from warm_agents import WarmAgent, warm_agents

from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.models.training.spec import (
    CHECKPOINTS,
    ERROR_FILE,
    HEARTBEAT_FILE,
    METRICS_FILE,
    RESULT_FILE,
    TrainingSpec,
)
from forecache.plugins.torch.launch import command, run_torchrun, worker_environment
from forecache.plugins.torch.worker.checkpoints import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(autouse=True)
def warm() -> Iterator[None]:
    with warm_agents("forecache.models.training.process"):
        yield


def prepare(folder: Path, pipeline: Pipeline, *, rows_per_date: int) -> tuple[Settings, TrainingSpec]:
    settings = load_settings(home=folder / "home", project="loop_project", training_max_restarts=5)
    spec = sample_spec(
        settings,
        pipeline,
        folder / "run",
        rows_per_date,
        inputs="stop test",
        training=pipeline.training,
        checkpoint_steps=20,
        export=False,
    )
    return settings, spec


def launch(settings: Settings, spec: TrainingSpec) -> WarmAgent:
    spec.folder.mkdir()
    spec.save()
    return WarmAgent(command(settings, spec), env=worker_environment(settings))


def wait_for_step(spec: TrainingSpec, step: int, *, timeout_s: float = 120) -> None:
    deadline, path = time.monotonic() + timeout_s, spec.folder / HEARTBEAT_FILE

    def reached() -> int:
        beat = path.read_bytes() if path.exists() else b""
        return struct.unpack("<qd", beat)[0] if beat else -1  # the file is there before its content

    while reached() < step:
        assert time.monotonic() < deadline, f"step {step} not reached within {timeout_s} s"
        time.sleep(0.01)


def events_of(spec: TrainingSpec, name: str) -> list[dict[str, object]]:
    lines = (spec.folder / METRICS_FILE).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.mark.timeout(400)
def test_sigterm_during_an_evaluation_saves_before_it_is_over_and_the_next_run_evaluates_again(tmp_path: Path) -> None:
    settings, prepared = prepare(tmp_path, slow, rows_per_date=2_000)
    steps = 4_000 // 16
    for number in range(3):  # this process may have to wait for longer than an evaluation takes
        spec = replace(prepared, run_dir=str(tmp_path / f"run-{number}"))
        process = launch(settings, spec)
        wait_for_step(spec, steps)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        if not events_of(spec, "epoch"):
            break
    assert not events_of(spec, "epoch")
    assert events_of(spec, "interrupted")
    assert events_of(spec, "checkpoint")[-1]["step"] == steps
    resumed = run_torchrun(settings, spec, on_event=lambda event: None)
    assert events_of(spec, "start")[-1]["step"] == steps
    whole = run_torchrun(settings, replace(spec, run_dir=str(tmp_path / "whole")), on_event=lambda event: None)
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["sample_digests"] == whole["sample_digests"]


def test_a_stop_whose_position_cannot_be_saved_says_why(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, slow, rows_per_date=2_000)
    process = launch(settings, spec)
    wait_for_step(spec, 4_000 // 16)
    checkpoints = spec.folder / CHECKPOINTS
    kept = ["step-0000000220", "step-0000000240"]  # then no save is under way
    wait_for(lambda: sorted(path.parent.name[:15] for path in checkpoints.glob(f"*/{MARKER}")) == kept)
    checkpoints.rename(tmp_path / "aside")
    checkpoints.touch()
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    error = json.loads((spec.folder / ERROR_FILE).read_text())
    assert str(checkpoints) in error["message"]
    assert not events_of(spec, "interrupted")


def lose_a_worker(settings: Settings, prepared: TrainingSpec) -> tuple[Settings, TrainingSpec]:
    """Kill a worker of a run in its middle, which is then started again; the run's spec, once it has ended."""
    for number in range(10):  # this process may have to wait for longer than a run takes
        spec = replace(prepared, run_dir=f"{prepared.run_dir}-{number}")
        process = launch(settings, spec)
        wait_for_step(spec, 50)
        with suppress(psutil.NoSuchProcess):
            for worker in workers_of(psutil.Process(process.pid))[:1]:
                worker.kill()
        assert process.wait(120) == 0
        if len(events_of(spec, "start")) > 1:  # a peer that is lost while it connects is one more
            return settings, spec
    raise AssertionError("each run was over before a worker of it could be killed")


@pytest.mark.timeout(400)
def test_a_network_in_shards_that_loses_a_worker_ends_with_the_weights_of_a_run_left_alone(tmp_path: Path) -> None:
    settings, spec = lose_a_worker(*prepare(tmp_path, sharded, rows_per_date=1_000))
    killed = json.loads((spec.folder / RESULT_FILE).read_text())
    assert killed["parallel"]["kind"] == "fsdp"
    alone = run_torchrun(settings, replace(spec, run_dir=str(tmp_path / "alone")), on_event=lambda event: None)
    assert killed["weights_digest"] == alone["weights_digest"]
    assert killed["sample_digests"] == alone["sample_digests"]
    whole = replace(spec, run_dir=str(tmp_path / "ddp"), training=replace(spec.training, parallel="ddp"))
    ddp = run_torchrun(settings, whole, on_event=lambda event: None)
    for shards, copies in zip(alone["history"], ddp["history"], strict=True):
        assert shards["train_loss"] == pytest.approx(copies["train_loss"], rel=1e-4)
        assert shards["validation_loss"] == pytest.approx(copies["validation_loss"], rel=1e-4)


@pytest.mark.timeout(400)
def test_a_training_function_of_its_own_resumes_and_passes_through_the_same_stage_records_and_gate(
    tmp_path: Path,
) -> None:
    settings, spec = lose_a_worker(*prepare(tmp_path, own, rows_per_date=1_000))
    first, *_, last = (event["step"] for event in events_of(spec, "start"))  # as above, there may be one more
    assert first == 0 < last
    killed = json.loads((spec.folder / RESULT_FILE).read_text())
    assert killed["fit"] == "loop_project.pipelines.loops.by_momentum"

    trained = train(settings, own, NIGHT)
    assert trained.details["weights_digest"] == killed["weights_digest"]
    assert trained.details["history"][-1]["train_loss"] == killed["history"][-1]["train_loss"]
    losses = [record["validation_loss"] for record in trained.details["history"]]
    assert losses[-1] < losses[0]
    registered = register_trained_model(settings, own, trained)
    assert run_gate(settings, own, registered.details["model_version"], actor="test").passed
