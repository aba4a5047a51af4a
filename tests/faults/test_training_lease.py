"""The lease of a run's checkpoints on a real S3-compatible server: one process writes them, on whichever machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import sample_spec
from waiting import wait_for

from forecache.base.errors import ConflictError
from forecache.base.folders import BucketFolder
from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import TRAINING_LEASE
from forecache.models.training.process import lock_folder, lock_run
from forecache.models.training.spec import METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch import lease
from forecache.plugins.torch.launch import run_torchrun
from forecache.plugins.torch.lease import LEASE_FILE, Lease, hold_lease, this_process

pytestmark = [pytest.mark.slow, pytest.mark.faults]

URI = "s3://cloud/checkpoints/run"
RENEW_S, EXPIRES_S, SOON_S = 0.3, 60.0, 3.0
"""A lease expires after the long time, which no holder misses; after `SOON_S` where that is tested."""
_HOLDER = """
import json, sys, time
from dataclasses import replace
from forecache.base.folders import BucketFolder
from forecache.plugins.torch import lease

lease.RENEW_S = float(sys.argv[3])
found = lease.this_process
lease.this_process = lambda run_id: replace(found(run_id), **json.loads(sys.argv[4]))
with lease.hold_lease(BucketFolder(sys.argv[1], json.loads(sys.argv[2])), run_id="run-a", report=print):
    print("held", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, options: dict[str, str]) -> Iterator[None]:
    monkeypatch.setattr(lease, "RENEW_S", RENEW_S)
    monkeypatch.setattr(lease, "EXPIRES_S", EXPIRES_S)
    yield
    assert held_by(options) is None  # every lease of a test was released


def held_by(options: dict[str, str]) -> dict[str, Any] | None:
    """The content of the lease, None where there is none."""
    place = BucketFolder(URI, options)
    return json.load(place.open(LEASE_FILE, "rb")) if LEASE_FILE in place.names() else None


def holder(options: dict[str, str], *, renew_s: float = RENEW_S, **differs: str) -> "subprocess.Popen[str]":
    """Another process that holds the lease, on another machine where its name or boot differs."""
    command = [sys.executable, "-c", _HOLDER, URI, json.dumps(options), str(renew_s), json.dumps(differs)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=120)


def take(options: dict[str, str], said: list[str] | None = None) -> float:
    """Hold the lease for a moment; returns how long it took to get it."""
    started = time.monotonic()
    with hold_lease(BucketFolder(URI, options), run_id="run-b", report=(said if said is not None else []).append):
        return time.monotonic() - started


@pytest.mark.parametrize("where", [{}, {"host": "gpu-7", "machine": "another boot"}])
def test_of_two_processes_the_second_is_refused_with_the_name_of_the_holder(
    options: dict[str, str], where: dict[str, str]
) -> None:
    first = holder(options, **where)
    try:
        host = where.get("host", this_process("").host)
        with pytest.raises(
            ConflictError, match=rf"{URI} are being written by process {first.pid} on {host}, run run-a"
        ):
            take(options)
        time.sleep(10 * RENEW_S)  # renewed, it does not expire
        with pytest.raises(ConflictError, match="are being written by"):
            take(options)
    finally:
        end(first)
    assert held_by(options) is None
    assert take(options) < EXPIRES_S


def test_a_killed_holder_of_this_machine_is_replaced_at_once(options: dict[str, str]) -> None:
    first = holder(options)
    first.send_signal(signal.SIGKILL)
    # Not waited for: a zombie is dead too.
    assert held_by(options) is not None
    said: list[str] = []
    assert take(options, said) < EXPIRES_S / 2
    assert said == []
    end(first)


def test_a_killed_holder_of_another_machine_is_replaced_when_its_lease_has_expired(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES_S", SOON_S)
    first = holder(options, host="gpu-7", machine="another boot")
    first.kill()
    end(first)
    said: list[str] = []
    assert SOON_S <= take(options, said) < EXPIRES_S
    assert len(said) == 1
    assert "process" in said[0]
    assert "on gpu-7" in said[0]


def test_of_many_contenders_for_a_lease_that_was_left_exactly_one_gets_it(options: dict[str, str]) -> None:
    first = holder(options)
    first.kill()
    end(first)
    got: list[Lease] = []
    refused: list[str] = []
    start = threading.Barrier(8)

    def contend(number: int) -> None:
        own = Lease(BucketFolder(URI, options), replace(this_process(f"run-{number}"), since=float(number)))
        keeper = PeriodicThread(TRAINING_LEASE, own.renew, every_s=lambda: lease.RENEW_S)
        start.wait()
        try:
            own.acquire(lambda message: None)
        except ConflictError as error:
            refused.append(error.message)
        else:
            keeper.start()
            got.append(own)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = got
    assert len(refused) == 7
    winner.release()


def test_a_holder_that_was_suspended_past_its_expiry_knows_and_leaves_the_new_lease_alone(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES_S", SOON_S)
    first = holder(options, host="gpu-7", machine="another boot")
    first.send_signal(signal.SIGSTOP)
    with hold_lease(BucketFolder(URI, options), run_id="run-b", report=lambda message: None) as second:
        first.send_signal(signal.SIGCONT)
        end(first)  # it releases what it thinks is its own
        time.sleep(3 * RENEW_S)
        assert second.taken_by is None
        found = held_by(options)
        assert found is not None
        assert found["run_id"] == "run-b"


def test_a_lease_that_was_deleted_from_outside_is_made_again(options: dict[str, str]) -> None:
    with hold_lease(BucketFolder(URI, options), run_id="run-b", report=lambda message: None) as own:
        BucketFolder(URI, options).delete([LEASE_FILE])
        wait_for(lambda: held_by(options) is not None)
        assert own.taken_by is None


def test_a_release_waits_for_a_renewal_under_way(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put, renewing = obstore.put, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        done = put(*args, **kwargs)
        if threading.current_thread().name == f"forecache-{TRAINING_LEASE.name}":
            renewing.set()
            time.sleep(0.5)
        return done

    monkeypatch.setattr("obstore.put", slow)
    with hold_lease(BucketFolder(URI, options), run_id="run-b", report=lambda message: None):
        assert renewing.wait(120)
    assert held_by(options) is None


def test_a_release_that_was_killed_before_its_delete_does_not_keep_the_next_one_out(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("obstore.delete", lambda *_: None)
        take(options)
    found = held_by(options)
    assert found is not None
    assert found["released"]
    assert take(options) < EXPIRES_S / 2


def test_an_object_that_is_no_lease_is_named(options: dict[str, str]) -> None:
    place = BucketFolder(URI, options)
    place.write(LEASE_FILE, b"{")
    with pytest.raises(ConflictError, match=f"{URI}/lease.json is not a lease"):
        take(options)
    place.delete([LEASE_FILE])


def prepared(folder: Path, options: dict[str, str]) -> tuple[Settings, TrainingSpec]:
    settings = load_settings(home=folder, project="sample_project", storage_options=options, device="cpu")
    spec = sample_spec(
        settings,
        returns,
        folder / "run",
        2_000,
        inputs="lease test",
        training=Training(epochs=400, batch_size=64, patience=1000),
        checkpoints=URI,
    )
    return settings, spec


def events_of(spec: TrainingSpec) -> list[str]:
    path = spec.folder / METRICS_FILE
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_training_whose_lease_was_taken_over_is_killed_without_saving(
    tmp_path: Path, options: dict[str, str]
) -> None:
    settings, spec = prepared(tmp_path, options)
    place = BucketFolder(URI, options)

    def taken_over_at_the_second_epoch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            other = {**vars(this_process("run-b")), "host": "gpu-7", "machine": "another boot", "pid": 4242}
            place.write(LEASE_FILE, json.dumps(other).encode())

    try:
        with pytest.raises(ConflictError, match="was taken over by process 4242 on gpu-7, run run-b"):
            run_torchrun(settings, spec, on_event=taken_over_at_the_second_epoch)
        assert not (spec.folder / RESULT_FILE).exists()
        assert "interrupted" not in events_of(spec)  # as a stopped one says that has saved
        found = held_by(options)
        assert found is not None
        assert found["pid"] == 4242
    finally:
        place.delete(place.names())


def test_the_second_training_of_a_machine_of_its_own_is_refused_before_it_writes_anything(
    tmp_path: Path, options: dict[str, str]
) -> None:
    settings, spec = prepared(tmp_path, options)
    elsewhere = replace(spec, run_dir=str(tmp_path / "elsewhere"))
    with lock_run(settings, spec, run_id="run-a", report=lambda message: None):
        with pytest.raises(ConflictError, match="are being written by process"):
            run_torchrun(settings, elsewhere, on_event=lambda event: None)
        assert [path.name for path in elsewhere.folder.iterdir()] == ["lock"]
    shutil.rmtree(elsewhere.folder)


def test_checkpoints_in_a_folder_that_two_homes_share_are_locked_there(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, spec = prepared(tmp_path, options)
    shared = replace(spec, checkpoints=str(tmp_path / "shared" / "run"))
    monkeypatch.setattr("forecache.models.training.process.GRACE_S", 0.5)
    with (
        lock_run(settings, shared, report=lambda message: None),
        pytest.raises(ConflictError, match="is writing checkpoints in .*shared/run"),
        lock_run(settings, replace(shared, run_dir=str(tmp_path / "elsewhere")), report=lambda message: None),
    ):
        pass
    with lock_folder(tmp_path / "shared" / "run", "testing"):
        pass
