"""A training that is killed again and again ends with the weights and the samples of one that was left alone."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training import chaos
from _training.chaos import run_chaos, workers_of
from sample_project.pipelines.visits import returns
from training_sample import sample_spec
from waiting import wait_for
from warm_agents import warm_agents

from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.models.training.spec import CHECKPOINTS, METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch.launch import command, run_torchrun, worker_environment

pytestmark = [pytest.mark.slow, pytest.mark.faults]


EPOCHS, ROWS_PER_DATE, BATCH = 3, 8_000, 64
STEPS_PER_EPOCH = 2 * ROWS_PER_DATE // BATCH  # two as-of dates


@dataclass(frozen=True)
class Alone:
    """A run that was left alone, and its result."""

    settings: Settings
    spec: TrainingSpec
    result: dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    settings = load_settings(home=folder / "home", project="sample_project", training_max_restarts=50)
    spec = sample_spec(
        settings,
        returns,
        folder / "run",
        ROWS_PER_DATE,
        inputs="kill test",
        training=Training(epochs=EPOCHS, batch_size=BATCH, patience=1000),
        checkpoint_steps=20,
        export=False,
    )
    with warm_agents("forecache.models.training.process"):
        return Alone(settings, spec, run_torchrun(settings, spec, on_event=lambda event: None))


def launch(settings: Settings, spec: TrainingSpec) -> "subprocess.Popen[bytes]":
    spec.folder.mkdir()
    spec.save()
    return subprocess.Popen(
        command(settings, spec), env=worker_environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.timeout(900)
def test_killed_four_times_at_random_it_ends_with_equal_weights_and_samples(
    alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "_EARLY_S", 0.5)  # so long takes a warm start
    with warm_agents("_training.chaos"):
        report = None
        while report is None:
            try:
                folder = tmp_path / str(len(list(tmp_path.iterdir())))
                report = run_chaos(alone.settings, alone.spec, folder, kills=4, seed=15, alone=alone.spec)
            except AssertionError as error:  # this process may have to wait for longer than what is left takes
                assert "too short" in str(error)  # noqa: PT017
    assert report.kills == {"all": 1, "terminate": 1, "worker": 2}
    assert report.equal_weights
    assert report.equal_samples
    assert report.equal_history
    # Of a kill, at most the steps since the last checkpoint are done again.
    assert report.steps_repeated <= 4 * (alone.spec.checkpoint_steps + 4)


@pytest.mark.timeout(400)
def test_sigterm_saves_the_position_from_which_another_number_of_workers_goes_on_to_the_same_samples(
    alone: Alone, tmp_path: Path
) -> None:
    saved, tries = STEPS_PER_EPOCH, 0
    while saved >= STEPS_PER_EPOCH:  # this process may have to wait for longer than an epoch takes
        tries += 1
        spec = replace(alone.spec, run_dir=str(tmp_path / f"run-{tries}"))
        saved = interrupted_at(alone.settings, spec)
    assert not (spec.folder / RESULT_FILE).exists()
    assert read_events(spec)[-1]["event"] == "interrupted"
    three = alone.settings.model_copy(update={"training_workers": 3})
    seen: list[dict[str, Any]] = []
    with warm_agents("forecache.models.training.process"):
        resumed = run_torchrun(three, spec, on_event=seen.append)
    [start] = [event for event in seen if event["event"] == "start"]
    assert (alone.result["workers"], resumed["workers"], start["workers"]) == (2, 3, 3)
    assert start["step"] == saved == start["reached_step"]
    assert 0 < start["step"] < STEPS_PER_EPOCH  # in the middle of the first epoch
    assert resumed["sample_digests"] == alone.result["sample_digests"]


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(alone: Alone, tmp_path: Path) -> None:
    spec = replace(alone.spec, run_dir=str(tmp_path / "run"))
    shutil.copytree(alone.spec.folder, spec.folder)
    newest = sorted((spec.folder / CHECKPOINTS).glob("step-*"))[-1]
    state = newest / "__0_0.distcp"
    state.write_bytes(state.read_bytes()[:-10])
    (spec.folder / RESULT_FILE).unlink()
    seen: list[dict[str, object]] = []
    with warm_agents("forecache.models.training.process"):
        again = run_torchrun(alone.settings, spec, on_event=seen.append)
    assert again["weights_digest"] == alone.result["weights_digest"]
    assert again["sample_digests"] == alone.result["sample_digests"]
    [warning] = [event["message"] for event in seen if event["event"] == "warning"]
    assert warning == f"checkpoint {newest.name} is skipped: its content does not match its checksum"


def test_killed_while_it_trains_again_on_all_splits_it_goes_on_there(alone: Alone, tmp_path: Path) -> None:
    training = replace(alone.spec.training, refit=True)
    whole, killed = (
        replace(alone.spec, run_dir=str(tmp_path / name), training=training, export=True)
        for name in ("whole", "killed")
    )
    seen: list[dict[str, Any]] = []
    with warm_agents("forecache.models.training.process"):
        expected = run_torchrun(alone.settings, whole, on_event=seen.append)
        assert steps_after_refit(seen) != []
        process = launch(alone.settings, killed)
        saved = wait_for(lambda: steps_after_refit(read_events(killed)))[-1]
        for victim in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait(60)
        ended = (killed.folder / RESULT_FILE).exists()  # this process may have to wait for longer than the rest takes
        resumed: list[dict[str, Any]] = []
        result = run_torchrun(alone.settings, killed, on_event=resumed.append)
    assert result["weights_digest"] == expected["weights_digest"]
    assert (result["refit"], result["sample_digests"]) == (expected["refit"], expected["sample_digests"])
    assert result["validation_loss"] == expected["validation_loss"]
    if not ended:
        [start] = [event for event in resumed if event["event"] == "start"]
        assert start["step"] >= saved - alone.spec.checkpoint_steps >= EPOCHS * STEPS_PER_EPOCH
        assert not [event for event in resumed if event["event"] == "epoch"]  # the first training is not done again


def steps_after_refit(events: list[dict[str, Any]]) -> list[int]:
    """The steps of the checkpoints of the training on all splits."""
    names = [event["event"] for event in events]
    if "refit" not in names:
        return []
    return [event["step"] for event in events[names.index("refit") :] if event["event"] == "checkpoint"]


def test_a_killed_launcher_leaves_no_trainer_behind_and_can_be_started_again(alone: Alone, tmp_path: Path) -> None:
    spec = replace(alone.spec, run_dir=str(tmp_path / "run"), training=replace(alone.spec.training, epochs=400))
    launcher = (
        "import sys\nfrom pathlib import Path\nfrom forecache.base.settings import load_settings\n"
        "from forecache.models.training.spec import load_spec\n"
        "from forecache.plugins.torch.launch import run_torchrun\n"
        "run_torchrun(load_settings(), load_spec(Path(sys.argv[1])), on_event=lambda event: None)\n"
    )
    spec.folder.mkdir()
    path = spec.save()
    process = subprocess.Popen([sys.executable, "-c", launcher, str(path)], env=worker_environment(alone.settings))
    wait_for_event(spec, "epoch")
    process.kill()
    process.wait()
    wait_for_event(spec, "interrupted")
    assert not (spec.folder / RESULT_FILE).exists()


def interrupted_at(settings: Settings, spec: TrainingSpec) -> int:
    """Start a run, and end it with SIGTERM after a checkpoint; the step of the last checkpoint."""
    process = launch(settings, spec)
    wait_for_event(spec, "checkpoint")
    workers = workers_of(psutil.Process(process.pid))
    if workers:  # their server is a fork of the agent, which has imported torch already
        assert "forecache.plugins.torch.agent" in workers[0].parent().cmdline()
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    if not workers:  # it was over
        return STEPS_PER_EPOCH
    return int([event for event in read_events(spec) if event["event"] == "checkpoint"][-1]["step"])


def wait_for_event(spec: TrainingSpec, name: str, *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(event["event"] == name for event in read_events(spec)):
        assert time.monotonic() < deadline, f"no event {name!r} within {timeout_s} s"
        time.sleep(0.02)


def read_events(spec: TrainingSpec) -> list[dict[str, Any]]:
    path = spec.folder / METRICS_FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half there
