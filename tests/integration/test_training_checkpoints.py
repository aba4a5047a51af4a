"""Checkpoints in a folder and on a real S3-compatible server: whole or not at all, the last good one stays."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import sharded_job
import torch
from free_ports import free_port
from ranks import run_ranks
from store_services import minio_server

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.base.folders import BucketFolder, Folder, LocalFolder
from forecache.plugins.torch.worker.checkpoints import MARKER, Checkpoints
from forecache.plugins.torch.worker.group import WorkerGroup

_PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def group() -> Iterator[WorkerGroup]:
    """This process as the only worker."""
    port = free_port()
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}.items():
            patch.setenv(name, value)
        made = WorkerGroup("cpu")
    yield made
    made.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio"), "checkpoints") as options:
        yield options


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder, or a prefix of a bucket of its own."""
    if request.param == "folder":
        return LocalFolder(tmp_path / "checkpoints")
    return BucketFolder(f"s3a://checkpoints/run-{next(_PREFIXES)}", request.getfixturevalue("s3"))


def opened(place: Folder, group: WorkerGroup, *, inputs: str = "these", keep: int = 2) -> Checkpoints:
    return Checkpoints(place, group, inputs=inputs, keep=keep)


def state(step: int) -> dict[str, Any]:
    """As the loop's: nested, with an optimizer's integer keys, scalars, several types and plain values."""
    moments = {0: {"step": torch.tensor(float(step)), "exp_avg": torch.full((3, 2), step / 7)}}
    return {
        "network": {
            "weight": torch.arange(6.0).reshape(2, 3) + step,
            "seen": torch.tensor(step),
            "on": torch.tensor(True),
        },
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1}]},
        "step": step,
        "digests": {0: "ab", 7: "cd"},
        "history": [{"loss": 0.5}],
        "best_loss": float("inf"),
    }


def folder_of(place: Folder, step: int) -> str:
    [folder] = {name.split("/")[0] for name in place.names() if name.startswith(f"step-{step:010d}-")}
    return folder


def assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    else:
        assert found == expected


def test_a_state_comes_back_bit_for_bit(place: Folder, group: WorkerGroup) -> None:
    checkpoints = opened(place, group)
    assert checkpoints.load_latest() == (None, [])
    checkpoints.save(5, state(5))
    checkpoints.save(9, state(9), wait=True)
    found, refused = opened(place, group).load_latest()
    assert refused == []
    assert_equal(found, state(9))


def test_a_save_takes_the_state_as_it_is_at_the_call(place: Folder, group: WorkerGroup) -> None:
    checkpoints = opened(place, group)
    changing = state(1)
    checkpoints.save(1, changing)
    changing["network"]["weight"].zero_()
    checkpoints.wait()
    assert_equal(checkpoints.load_latest()[0], state(1))


def test_only_the_newest_stay_and_unfinished_ones_before_them_go(place: Folder, group: WorkerGroup) -> None:
    place.write("step-0000000001/__0_0.distcp", b"a worker was killed here")
    checkpoints = opened(place, group, keep=2)
    for step in (2, 3, 4):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    assert {name.split("-")[1] for name in place.names()} == {"0000000003", "0000000004"}


def test_a_writer_that_was_suspended_deletes_nothing_of_the_one_that_took_over(
    place: Folder, group: WorkerGroup
) -> None:
    suspended = opened(place, group, keep=1)
    suspended.save(1, state(1), wait=True)
    after = opened(place, group, keep=1)
    assert_equal(after.load_latest()[0], state(1))
    place.write("step-0000000002-ffffffff/__0_0.distcp", b"as if `after` were writing this")
    suspended.save(2, state(2))
    suspended.save(3, state(3), wait=True)
    after.save(2, state(2), wait=True)
    assert "step-0000000002-ffffffff/__0_0.distcp" in place.names()
    folders = {name.split("/")[0] for name in place.names()}
    assert len([folder for folder in folders if folder.startswith("step-0000000002-")]) == 2
    found, refused = opened(place, group).load_latest()
    assert_equal(found, state(3))
    assert refused == []


@pytest.mark.parametrize("broken", ["__0_0.distcp", ".metadata", "state.pt", MARKER])
def test_an_upload_that_breaks_leaves_the_last_good_one(
    place: Folder, group: WorkerGroup, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    checkpoints = opened(place, group)
    checkpoints.save(1, state(1), wait=True)
    honest_open, honest_write = type(place).open, type(place).write

    def break_open(self: Folder, name: str, mode: str) -> IO[bytes]:
        if mode == "wb" and broken in name:
            honest_write(self, name, b"half of ")
            raise ConnectionError("the line is down")
        return honest_open(self, name, mode)

    def break_write(self: Folder, name: str, content: bytes) -> None:
        if name.endswith(broken):
            raise ConnectionError("the line is down")
        honest_write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "open", break_open)
        patch.setattr(type(place), "write", break_write)
        checkpoints.save(2, state(2))
        with pytest.raises(UnavailableError, match=r"checkpoint of step 2 could not be written .* line is down"):
            checkpoints.wait()
    found, refused = opened(place, group).load_latest()
    assert_equal(found, state(1))
    assert refused == [f"checkpoint {folder_of(place, 2)} is skipped: it was never committed"]
    checkpoints.save(2, state(2), wait=True)
    assert_equal(checkpoints.load_latest()[0], state(2))


def test_a_second_checkpoint_of_a_step_that_breaks_leaves_the_first_one(
    place: Folder, group: WorkerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(place, group, keep=1).save(1, state(1), wait=True)
    after = opened(place, group, keep=1)
    assert_equal(after.load_latest()[0], state(1))

    def break_write(self: Folder, name: str, content: bytes) -> None:
        raise ConnectionError("the line is down")

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "write", break_write)
        after.save(1, state(5))
        with pytest.raises(UnavailableError, match="checkpoint of step 1"):
            after.wait()
    assert_equal(opened(place, group).load_latest()[0], state(1))
    for value in (6, 7):
        after.save(1, state(value), wait=True)
        assert_equal(opened(place, group).load_latest()[0], state(value))
    assert len({name.split("/")[0] for name in place.names()}) == 1


def test_a_checkpoint_whose_marker_cannot_be_read_is_passed_over(place: Folder, group: WorkerGroup) -> None:
    checkpoints = opened(place, group)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2), wait=True)
    place.write(f"{folder_of(place, 2)}/{MARKER}", b"\x00" * 20)
    found, refused = opened(place, group).load_latest()
    assert_equal(found, state(1))
    assert refused == [f"checkpoint {folder_of(place, 2)} is skipped: its marker cannot be read"]


@pytest.mark.parametrize("damaged", ["__0_0.distcp", ".metadata", "state.pt"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    place: Folder, group: WorkerGroup, damaged: str
) -> None:
    checkpoints = opened(place, group)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2), wait=True)
    name = f"{folder_of(place, 2)}/{damaged}"
    with place.open(name, "rb") as file:
        content = bytearray(file.read())
    content[len(content) // 2] ^= 1
    place.write(name, bytes(content))
    found, refused = checkpoints.load_latest()
    assert_equal(found, state(1))
    assert refused == [f"checkpoint {folder_of(place, 2)} is skipped: its content does not match its checksum"]
    place.delete([name])
    assert checkpoints.load_latest()[1] == refused


def test_a_checkpoint_of_other_inputs_is_refused(place: Folder, group: WorkerGroup) -> None:
    opened(place, group).save(1, state(1), wait=True)
    with pytest.raises(ForecacheError, match="step-0000000001-.* in .* belongs to a run with other inputs"):
        opened(place, group, inputs="others").load_latest()


def test_nothing_of_an_upload_to_a_bucket_that_was_killed_is_visible(s3: dict[str, str]) -> None:
    place = BucketFolder(f"s3a://checkpoints/run-{next(_PREFIXES)}", s3)
    writer = place.open("step-0000000001/__0_0.distcp", "wb")
    writer.write(os.urandom(1 << 20))
    del writer
    assert place.names() == []


@pytest.mark.slow
@pytest.mark.parametrize(("saved_by", "loaded_by"), [(2, 2), (2, 1), (1, 2)])
def test_a_sharded_state_is_taken_up_by_another_number_of_ranks(tmp_path: Path, saved_by: int, loaded_by: int) -> None:
    run_ranks(sharded_job.save, saved_by, tmp_path / "save", place=tmp_path)
    folder = folder_of(LocalFolder(tmp_path / "checkpoints"), 3)
    files = {path.name for path in (tmp_path / "checkpoints" / folder).iterdir()}
    assert files == {*(f"__{rank}_0.distcp" for rank in range(saved_by)), ".metadata", "state.pt", MARKER}
    run_ranks(sharded_job.load, loaded_by, tmp_path / "load", place=tmp_path)


def test_a_state_of_many_buffers_is_uploaded_as_it_was(place: Folder, group: WorkerGroup) -> None:
    checkpoints = opened(place, group)
    large = {"weights": torch.randn(6_000_000, generator=torch.Generator().manual_seed(1))}
    checkpoints.save(1, large, wait=True)
    assert_equal(checkpoints.load_latest()[0], large)


def test_a_file_of_a_bucket_is_read_in_ranges_and_never_whole_into_memory(s3: dict[str, str]) -> None:
    import obstore

    from forecache.base.folders import open_bucket

    uri, size = f"s3a://checkpoints/run-{next(_PREFIXES)}", 64 << 20
    place = BucketFolder(uri, s3)
    content = os.urandom(1 << 20) * (size >> 20)
    obstore.put(open_bucket(uri, s3), "large", content)
    digest, most = hashlib.sha256(), 0
    before = resident_bytes()
    with place.open("large", "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            most = max(most, resident_bytes() - before)
        file.seek(size - 5)
        assert file.read() == content[-5:]
    assert digest.digest() == hashlib.sha256(content).digest()
    assert most < size / 2
    with pytest.raises(FileNotFoundError):
        place.open("missing", "rb")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
