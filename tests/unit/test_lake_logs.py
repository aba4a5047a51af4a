"""The output of steps in the lake: read on a machine without the disk of the one that ran them."""

import logging
import sys
from pathlib import Path

import pytest

from forecache.base.folders import LocalFolder
from forecache.base.settings import load_settings
from resources.instance import ensure_instance
from resources.lake_logs import FOLDER, LakeLogManager

KEY = ["the-run", "compute_logs", "write_table"]


def machine(folder: Path, name: str) -> LakeLogManager:
    return LakeLogManager(load_settings(home=folder / name, lake=str(folder / "lake")))


def test_another_machine_reads_what_a_step_has_printed_before_and_after_it_ends(tmp_path: Path) -> None:
    ours, theirs = machine(tmp_path, "ours"), machine(tmp_path, "theirs")
    with ours.capture_logs(KEY):
        print("half of it", file=sys.stderr, flush=True)
        ours.on_progress(KEY)
        assert not theirs.is_capture_complete(KEY)
        assert theirs.get_log_data(KEY).stderr == b"half of it\n"
        print("all of it", file=sys.stderr, flush=True)
    assert theirs.is_capture_complete(KEY)
    assert machine(tmp_path, "third").get_log_data(KEY).stderr == b"half of it\nall of it\n"
    files = sorted(path.name for path in (tmp_path / "lake" / FOLDER).rglob("*.*"))
    assert files == ["write_table.err", "write_table.out"]
    assert theirs.get_log_metadata(KEY).stderr_download_url == "/logs/the-run/compute_logs/write_table/err"
    theirs.delete_logs(prefix=["the-run"])
    assert LocalFolder(tmp_path / "lake" / FOLDER).names() == []


def test_an_object_store_that_cannot_be_reached_costs_the_output_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = machine(tmp_path, "ours")

    def refuse(*_: object) -> None:
        raise OSError("no route")

    for name in ("write", "size", "read"):
        monkeypatch.setattr(LocalFolder, name, refuse)
    with caplog.at_level(logging.WARNING, logger="forecache"):
        with ours.capture_logs(KEY):
            print("it", file=sys.stderr, flush=True)
            ours.on_progress(KEY)
        assert "output of the step write_table was not written" in caplog.text
        assert ours.get_log_data(KEY).stderr is None
        monkeypatch.setattr(LocalFolder, "size", lambda *_: 3)  # it answers for a moment
        assert ours.get_log_data(KEY).stderr is None
        assert "output of the step write_table was not read" in caplog.text


def test_only_an_installation_with_a_lake_in_a_bucket_keeps_them_there(tmp_path: Path) -> None:
    for lake, is_there in (("", False), ("s3://cloud/lake", True)):
        home = ensure_instance(load_settings(home=tmp_path / str(is_there), lake=lake))
        assert ("LakeLogManager" in (home / "dagster.yaml").read_text()) == is_there
        assert "LakeLogManager" not in (home / "runner.yaml").read_text(), "`forecache run` keeps its terminal"
