"""`make setup` run again: no network, nothing written; what it installs is what the engine asks for."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forecache.lake.spark import JARS

ROOT = Path(__file__).resolve().parents[2]
STAMP = ROOT / ".tools" / "setup.stamp"


@pytest.mark.skipif(not STAMP.exists(), reason="this environment was not made by `make setup`")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="taking the network away needs root")
def test_setup_again_needs_no_network_and_writes_nothing() -> None:
    before = STAMP.stat().st_mtime_ns
    started = time.perf_counter()
    done = subprocess.run(
        ["unshare", "--net", "bash", "scripts/setup.sh"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.perf_counter() - started < 5
    assert STAMP.stat().st_mtime_ns == before


def test_jars_that_setup_resolves_are_those_that_spark_gets(tmp_path: Path) -> None:
    for jar in JARS:
        (tmp_path / jar).symlink_to(ROOT / ".tools" / "jars" / jar)
    done = subprocess.run(
        [sys.executable, "scripts/resolve_jars.py", str(tmp_path), "--java", "/no/java"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == set(JARS)


def test_jar_that_cannot_be_resolved_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / JARS[0]).write_bytes(b"half a download")
    done = subprocess.run(
        [sys.executable, "scripts/resolve_jars.py", str(tmp_path), "--java", "/no/java"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "io.delta:delta-spark_4.1_2.13:4.4.0 could not be resolved" in done.stderr
    assert f"copy {JARS[0]}" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"setup", "demo", "dev", "test", "lint", "unit", "bench-store", "bench-scoring", "bench-training"} <= listed
