"""A committer that is started on a replica before anything there knows its model."""

import os
import subprocess
import sys
import time
from pathlib import Path

from log_support import logged, spool

from forecache.base.settings import load_settings


def test_a_committer_that_starts_before_the_first_pull_waits_for_the_rows_of_its_model(tmp_path: Path) -> None:
    replica = load_settings(home=tmp_path / "replica", lake=str(tmp_path / "lake"))
    told = {"HOME": str(replica.home_path), "LAKE": replica.lake_uri, "STORE_REMOTE": str(tmp_path / "remote"),
            "PROJECT": "no_project"}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "forecache.cli.main", "log", "commit", "search", "--until-input-ends"],
        env={**os.environ, **{f"FORECACHE_{name}": value for name, value in told.items()}},
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "Waiting for rows of search, a model that `forecache store pull` may bring here" in process.stderr.readline()
    spool(replica, [["a", "b"]], arrived_us=int(time.time() * 1e6)).close()
    _, said = process.communicate(timeout=60)  # its input ends, and it commits what is left
    assert process.returncode == 0, said
    assert sorted(row["request_id"] for row in logged(replica)) == ["a", "b"]
