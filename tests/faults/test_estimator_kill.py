"""A fit that is killed leaves nothing behind that counts, and the next one is as if it had been the first."""

import hashlib
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from estimator_job import train_trees
from estimator_project.pipelines.trees import basket_refit, churn_trees
from registry_sample import NIGHT
from training_sample import write_training_set
from waiting import wait_for
from warm import die, processes, start
from warm_agents import warm_agents

from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.models.training.launch import pinned_version, run_folder, train, training_inputs
from forecache.models.training.spec import METRICS_FILE, MODEL_FILES, RESULT_FILE

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine threads of a fit wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def prepare(folder: Path) -> tuple[Settings, Path]:
    """Settings whose lake has a training set that takes a second to fit, and the folder of that run."""
    settings = load_settings(home=folder / "home", project="estimator_project")
    write_training_set(settings, churn_trees, rows_per_date=8_000)
    version = pinned_version(settings, churn_trees)
    return settings, run_folder(settings, churn_trees, training_inputs(churn_trees, version))


def launched(settings: Settings, pipeline: Pipeline = churn_trees) -> tuple[Any, Any]:
    """A process that trains, and where it tells an error."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(train_trees, settings.home_path, theirs, pipeline)
    theirs.close()
    return process, ours


def wait_for_event(folder: Path, event: str = "start", *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    metrics = folder / METRICS_FILE
    while not (metrics.is_file() and f'"{event}"' in metrics.read_text()):
        assert time.monotonic() < deadline, f"the fit did not report {event!r} within {timeout_s} s"
        time.sleep(0.02)


def fitting_process(folder: Path) -> int:
    """The process that fits in the folder, 0 where there is none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"forecache.plugins.estimators" in arguments and str(folder / "spec.json").encode() in arguments:
                return int(entry.name)
    return 0


def caught_fitting(tmp_path: Path) -> tuple[Settings, Path, Any, Any, int]:
    """A run whose fit is under way and suspended: settings, folder, launcher, where that tells an error, the fit.

    Where this machine stands still until a fit is over, it is too late, and the next one is tried.
    """
    for number in range(10):
        settings, folder = prepare(tmp_path / f"try-{number}")
        process, told = launched(settings)
        wait_for_event(folder)
        fit = fitting_process(folder)
        if fit:
            os.kill(fit, signal.SIGSTOP)
            if not (folder / RESULT_FILE).exists():
                return settings, folder, process, told, fit
            os.kill(fit, signal.SIGCONT)
        process.join(120)
    raise AssertionError("each fit was over before it could be suspended")


def test_a_fit_whose_launcher_was_killed_ends_and_is_done_anew_with_the_same_result(tmp_path: Path) -> None:
    settings, folder, process, _, fit = caught_fitting(tmp_path)
    die(process)
    with suppress(ProcessLookupError):
        os.kill(fit, signal.SIGCONT)
    wait_for(lambda: not fitting_process(folder))
    assert not (folder / RESULT_FILE).exists()
    assert not any((folder / name).exists() for name in MODEL_FILES.values())
    with warm_agents("forecache.models.training.process"):
        again = train(settings, churn_trees, NIGHT)
    assert again.details["cost"]["attempts"] == 2
    assert 0 < again.details["cost"]["wasted_s"] < again.details["cost"]["device_s"]
    elsewhere = load_settings(home=tmp_path / "other", project="estimator_project")
    shutil.copytree(settings.lake_uri, elsewhere.lake_uri)
    shutil.rmtree(elsewhere.table_uri("stage_ledger"))
    with warm_agents("forecache.models.training.process"):
        other = train(elsewhere, churn_trees, NIGHT)
    assert other.details["weights_digest"] == again.details["weights_digest"]


def test_a_kill_between_the_two_fits_of_a_model_leaves_no_result_and_it_is_done_anew(tmp_path: Path) -> None:
    for number in range(10):  # where this machine stands still until the second fit is over, it is too late
        settings = load_settings(home=tmp_path / f"try-{number}" / "home", project="estimator_project")
        write_training_set(settings, basket_refit, rows_per_date=8_000)
        inputs = training_inputs(basket_refit, pinned_version(settings, basket_refit))
        folder = run_folder(settings, basket_refit, inputs)
        process, told = launched(settings, basket_refit)
        wait_for_event(folder, "refit")
        fit = fitting_process(folder)
        if fit:
            os.kill(fit, signal.SIGKILL)
        process.join(120)
        if not (folder / RESULT_FILE).exists():
            break
    assert "was ended by signal 9" in told.recv()
    assert (folder / "model.lgb").exists()
    with warm_agents("forecache.models.training.process"):
        again = train(settings, basket_refit, NIGHT)
    assert again.details["cost"]["attempts"] == 2
    assert hashlib.sha256((folder / "refit" / "model.lgb").read_bytes()).hexdigest() == again.details["weights_digest"]
    elsewhere = load_settings(home=tmp_path / "other", project="estimator_project")
    shutil.copytree(settings.lake_uri, elsewhere.lake_uri)
    shutil.rmtree(elsewhere.table_uri("stage_ledger"))
    with warm_agents("forecache.models.training.process"):
        whole = train(elsewhere, basket_refit, NIGHT)
    assert whole.details["weights_digest"] == again.details["weights_digest"]


def test_a_fit_that_is_told_to_end_says_that_it_starts_anew(tmp_path: Path) -> None:
    _, _, process, told, fit = caught_fitting(tmp_path)
    os.kill(fit, signal.SIGTERM)
    os.kill(fit, signal.SIGCONT)
    assert "was ended by signal 15 before it was done. Run it again to start anew" in told.recv()
    process.join(120)
