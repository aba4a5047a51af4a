"""Two torchrun agents that find each other by c10d rendezvous: `train` on one node, `join` on the other."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import write_training_set

from forecache.base.errors import ConflictError, SettingsError, UnavailableError
from forecache.base.settings import load_settings
from forecache.declare import Training
from forecache.kit.lease import local_lease
from forecache.kit.process.wakes import TRAINING_JOIN
from forecache.models.training import launch
from forecache.models.training.launch import train
from forecache.models.training.run_files import RunFiles, open_training_root, read_node_state
from forecache.models.training.spec import ERROR_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch import join as join_module
from forecache.plugins.torch.join import join
from forecache.plugins.torch.launch import worker_environment


@pytest.fixture(params=["home", "bucket"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings of what two nodes have in common: a home with the lake, or a bucket with the lake."""
    if request.param == "home":
        yield {}
        return
    with minio_server(tmp_path / "minio", "cloud") as options:
        yield {"lake": "s3://cloud/lake", "storage_options": options}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_node_lends_its_worker_to_the_run_and_ends_with_it(tmp_path: Path, shared: dict[str, Any]) -> None:
    settings = load_settings(
        home=tmp_path / "home",
        project="sample_project",
        training_workers=1,
        training_nodes="2",
        training_rendezvous=f"127.0.0.1:{free_port()}",
        **shared,
    )
    write_training_set(settings, returns, rows_per_date=200)
    elsewhere = tmp_path / ("elsewhere" if shared else "home")
    variables = {
        "FORECACHE_HOME": str(elsewhere),
        "FORECACHE_TRAINING_NODES": "2",
        "FORECACHE_TRAINING_RENDEZVOUS": settings.training_rendezvous,
        "FORECACHE_TRAINING_WORKERS": "1",
    }
    second = subprocess.Popen(
        [sys.executable, "-m", "forecache.plugins.torch.join", "returns"],
        env={**worker_environment(settings), **variables},
    )
    try:
        result = train(settings, returns, NIGHT)
        assert result.details["workers"] == 2
        assert second.wait() == 0
    finally:
        second.kill()
    assert Path(result.details["run_dir"]).is_relative_to(tmp_path / "home")
    assert bool(list(elsewhere.rglob(RESULT_FILE))) == (not shared)  # rank 0, which writes it, is on the first node


def test_the_error_of_a_worker_on_a_further_node_reaches_the_first(tmp_path: Path) -> None:
    found = {"type": "InputError", "message": "The label is not a number.", "remedy": ""}
    spec = TrainingSpec("", "returns", "", 0, "", Training(), checkpoints=str(tmp_path / "shared"))
    first, second = (
        RunFiles(load_settings(home=tmp_path, training_nodes="2"), replace(spec, run_dir=str(tmp_path / node)))
        for node in ("first", "second")
    )
    for files in (first, second):
        files.folder.mkdir()
    (second.folder / ERROR_FILE).write_text(json.dumps(found))
    second.share_error()
    first.fetch_error()
    assert json.loads((first.folder / ERROR_FILE).read_text()) == found


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_who_lost_a_training_to_another_process_does_not_tell_further_nodes_how_it_ended(
    tmp_path: Path, is_taken_over: bool
) -> None:
    settings = load_settings(home=tmp_path / "home", training_nodes="2")
    files = RunFiles(settings, TrainingSpec(str(tmp_path / "run"), "returns", "", 0, "", Training()))
    files.folder.mkdir()
    lease = local_lease("training", "training returns")
    with files.offer_to_nodes(lease):
        (files.folder / ERROR_FILE).write_text("{}")
        lease._lost = "it was taken over by another process" if is_taken_over else ""
    assert read_node_state(open_training_root(settings), "returns") == ("run", "open" if is_taken_over else "failed")


def test_a_further_node_reports_only_the_error_of_its_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path / "home", project="sample_project", training_nodes="2")
    shared = tmp_path / "shared"
    spec = TrainingSpec(str(tmp_path / "run"), "returns", "", 0, "", Training(), checkpoints=str(shared))
    spec.folder.mkdir()
    fail = f"from pathlib import Path; Path({str(spec.folder / ERROR_FILE)!r}).write_text('{{}}')"
    commands = [fail, "import time; time.sleep(600)"]
    reported: list[bool] = []
    reported_before: list[int] = []  # how often, before each attempt

    def start(*_: object, **__: object) -> list[str]:
        reported_before.append(len(reported))
        return [sys.executable, "-c", commands[len(reported_before) - 1]]

    def read_state(*_: object) -> tuple[str, str]:
        is_done = len(reported_before) == 2 and len(reported) > reported_before[1] + 1
        return "run", "done" if is_done else "open"

    def share(files: RunFiles) -> None:
        reported.append((files.folder / ERROR_FILE).is_file())

    monkeypatch.setattr(join_module, "command", start)
    monkeypatch.setattr(RunFiles, "share_error", share)
    monkeypatch.setattr(join_module, "read_node_state", read_state)
    monkeypatch.setattr(join_module, "TRAINING_JOIN", replace(TRAINING_JOIN, every_s=0.3))
    assert join_module._work(settings, open_training_root(settings), spec) == "done"
    assert True in reported
    assert not reported[-1], "the error of the first attempt is gone"


def test_training_on_several_nodes_without_a_rendezvous_names_the_settings(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="sample_project", training_nodes="1:4")
    write_training_set(settings, returns, rows_per_date=10)
    with pytest.raises(SettingsError, match="FORECACHE_TRAINING_NODES is '1:4'.*RENDEZVOUS is not set"):
        train(settings, returns, NIGHT)


def test_every_worker_of_many_nodes_has_a_lane_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        home=tmp_path / "home",
        project="sample_project",
        training_workers=4,
        training_nodes="1:5",
        training_rendezvous="127.0.0.1:1",
    )
    write_training_set(settings, returns, rows_per_date=10)
    asked: list[TrainingSpec] = []

    def stop(spec: TrainingSpec, *_: object, **__: object) -> None:
        asked.append(spec)
        raise ConflictError("only what is asked for is of interest")

    monkeypatch.setattr(launch, "run_process", stop)
    for chosen in (settings, settings.model_copy(update={"training_nodes": "1:2"})):
        with pytest.raises(ConflictError):
            train(chosen, returns, NIGHT)
    many, eight = asked
    assert (many.lanes, eight.lanes) == (32, 8)
    assert many.inputs == f"{eight.inputs} lanes=32"  # their sample orders differ
    assert many.run_dir != eight.run_dir


@pytest.mark.parametrize("nodes", ["0", "2:", "two", "1:2:3"])
def test_a_number_of_nodes_that_is_none_names_the_setting(tmp_path: Path, nodes: str) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_TRAINING_NODES"):
        load_settings(home=tmp_path, training_nodes=nodes)


def test_joining_without_a_rendezvous_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_TRAINING_RENDEZVOUS"):
        join(load_settings(home=tmp_path), "returns")


def test_joining_where_no_run_appears_ends_with_a_sentence(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, training_nodes="2", training_rendezvous="127.0.0.1:1")
    with pytest.raises(UnavailableError, match="No training run of 'returns' appeared"):
        join(settings, "returns", wait_s=0.0)


def test_a_node_waits_for_the_next_run_as_long_as_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path, training_nodes="2", training_rendezvous="127.0.0.1:1")
    spec = TrainingSpec(str(tmp_path / "run"), "returns", "", 0, "", Training())
    found, states = iter([spec, None, spec]), iter(["", "done"])
    now = [0.0]

    def work(*_: object) -> str:
        now[0] += 7200.0
        return next(states)

    monkeypatch.setattr(join_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(join_module, "TRAINING_JOIN", replace(TRAINING_JOIN, every_s=0.0))
    monkeypatch.setattr(join_module, "_fetch_open_run", lambda *_: next(found))
    monkeypatch.setattr(join_module, "_work", work)
    assert join(settings, "returns", wait_s=3600.0) == spec.folder
