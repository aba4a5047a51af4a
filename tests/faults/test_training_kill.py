"""A training that is killed again and again ends with the weights and the samples of one that was left alone."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _training.chaos import run_chaos
from sample_project.pipelines.visits import returns
from training_sample import sample_spec

from forecache.pipeline import Training
from forecache.settings import Settings, load_settings
from forecache.training.spec import CHECKPOINTS, METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.training.torchrun import command, environment, run_torchrun

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def prepare(folder: Path, *, epochs: int, rows_per_date: int) -> tuple[Settings, TrainingSpec]:
    settings = load_settings(home=folder / "home", project="sample_project", training_max_restarts=50)
    spec = sample_spec(
        settings,
        returns,
        folder / "run",
        rows_per_date,
        inputs="kill test",
        training=Training(epochs=epochs, batch_size=64, patience=1000),
        checkpoint_steps=20,
    )
    return settings, spec


@pytest.mark.timeout(900)
def test_killed_four_times_at_random_it_ends_with_equal_weights_and_samples(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, epochs=6, rows_per_date=4_000)
    report = run_chaos(settings, spec, tmp_path, kills=4, seed=5)
    assert sum(report.kills.values()) == 4
    assert report.equal_weights
    assert report.equal_samples
    assert report.equal_history
    # Of a kill, at most the steps since the last checkpoint are done again.
    assert report.steps_repeated <= 4 * (spec.checkpoint_steps + 4)


def test_sigterm_saves_the_position_and_the_next_run_goes_on_from_it(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, epochs=10, rows_per_date=2_000)
    spec.folder.mkdir()
    spec.save()
    process = subprocess.Popen(
        command(settings, spec), env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_event(spec, "epoch")
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert not (spec.folder / RESULT_FILE).exists()
    events = read_events(spec)
    assert events[-1]["event"] == "interrupted"
    saved = [event for event in events if event["event"] == "checkpoint"][-1]["step"]
    seen: list[dict[str, object]] = []
    run_torchrun(settings, spec, on_event=seen.append)
    [start] = [event for event in seen if event["event"] == "start"]
    assert start["step"] == saved == start["reached_step"]


@pytest.mark.timeout(400)
def test_a_run_that_goes_on_with_another_number_of_workers_sees_the_samples_of_one_left_alone(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, epochs=2, rows_per_date=12_000)
    spec = replace(spec, export=False)
    spec.folder.mkdir()
    spec.save()
    process = subprocess.Popen(
        command(settings, spec), env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_event(spec, "checkpoint")
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    three = settings.model_copy(update={"training_workers": 3})
    seen: list[dict[str, Any]] = []
    resumed = run_torchrun(three, spec, on_event=seen.append)
    [start] = [event for event in seen if event["event"] == "start"]
    assert (resumed["workers"], start["workers"]) == (3, 3)
    assert 0 < start["step"] < 24_000 // 64  # in the middle of the first epoch
    alone = run_torchrun(settings, replace(spec, run_dir=str(tmp_path / "alone")), on_event=lambda event: None)
    assert alone["workers"] == 2
    assert resumed["sample_digests"] == alone["sample_digests"]


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, epochs=3, rows_per_date=500)
    expected = run_torchrun(settings, spec, on_event=lambda event: None)
    newest = sorted((spec.folder / CHECKPOINTS).glob("step-*"))[-1]
    state = newest / "__0_0.distcp"
    state.write_bytes(state.read_bytes()[:-10])
    (spec.folder / RESULT_FILE).unlink()
    seen: list[dict[str, object]] = []
    again = run_torchrun(settings, spec, on_event=seen.append)
    assert again["weights_digest"] == expected["weights_digest"]
    assert again["sample_digests"] == expected["sample_digests"]
    [warning] = [event["message"] for event in seen if event["event"] == "warning"]
    assert warning == f"checkpoint {newest.name} is skipped: its content does not match its checksum"


def test_a_killed_launcher_leaves_no_trainer_behind_and_can_be_started_again(tmp_path: Path) -> None:
    settings, spec = prepare(tmp_path, epochs=400, rows_per_date=2_000)
    launcher = (
        "import sys\nfrom pathlib import Path\nfrom forecache.settings import load_settings\n"
        "from forecache.training.spec import load_spec\nfrom forecache.training.torchrun import run_torchrun\n"
        "run_torchrun(load_settings(), load_spec(Path(sys.argv[1])), on_event=lambda event: None)\n"
    )
    spec.folder.mkdir()
    path = spec.save()
    process = subprocess.Popen([sys.executable, "-c", launcher, str(path)], env=environment(settings))
    wait_for_event(spec, "epoch")
    process.kill()
    process.wait()
    wait_for_event(spec, "interrupted")
    assert not (spec.folder / RESULT_FILE).exists()


def wait_for_event(spec: TrainingSpec, name: str, *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(event["event"] == name for event in read_events(spec)):
        assert time.monotonic() < deadline, f"no event {name!r} within {timeout_s} s"
        time.sleep(0.05)


def read_events(spec: TrainingSpec) -> list[dict[str, object]]:
    path = spec.folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
