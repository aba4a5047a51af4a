"""Copies of models are gone with their process: at its end, or at the start of a later one where it was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
from pathlib import Path
from forecache.models.tracking.artifacts import scratch_folder
Path(scratch_folder(), "model").write_text("x")
print(scratch_folder(), flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], env={**os.environ, "TMPDIR": str(folder)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    killed, left = start(tmp_path)
    living, used = start(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for folder in (left, used):
        os.utime(folder, (0, 0))
    last, third = start(tmp_path)
    assert not left.exists()
    assert (used / "model").exists()
    for process in (living, last):
        process.communicate("")
    assert not used.exists()
    assert not third.exists()
