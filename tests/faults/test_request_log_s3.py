"""The request log on an object store: committed with its conditional put, each row once."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from log_support import commit_all, committer, killed, logged, spool
from store_services import minio_server

from forecache.base.settings import load_settings

pytestmark = pytest.mark.faults


def test_committers_of_two_replicas_and_one_that_is_killed_commit_each_row_once_on_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, wanted = "s3://cloud/lake", Counter[str]()
    with minio_server(tmp_path / "minio", "cloud") as options:
        monkeypatch.setenv("FORECACHE_STORAGE_OPTIONS", json.dumps(options))
        homes = [tmp_path / "one", tmp_path / "two"]
        for home in homes:
            settings = load_settings(home=str(home), lake=lake)
            segments = [[f"{home.name}-{segment}-{row}" for row in range(10)] for segment in range(3)]
            spool(settings, segments, arrived_us=time.time_ns() // 1000).close()
            wanted += Counter(each for segment in segments for each in segment)
        first = committer(homes[0], lake=lake, kill_at="rows committed")
        second = committer(homes[1], lake=lake)
        assert killed(first)
        assert second.wait(timeout=120) == 0
        for home in homes:
            commit_all(load_settings(home=str(home), lake=lake))
        assert Counter(row["request_id"] for row in logged(load_settings(home=str(homes[0]), lake=lake))) == wanted
