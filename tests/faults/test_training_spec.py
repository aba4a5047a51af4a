"""A specification is there whole or not at all: other nodes look for it, and read it while it is written again."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from forecache.declare import Training
from forecache.models.training.spec import SPEC_FILE, TrainingSpec, load_spec

pytestmark = pytest.mark.faults

_KILLED_AT_BYTES = 100
_SAVES_KILLED = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from forecache.models.training.spec import load_spec

spec = replace(load_spec(Path(sys.argv[1])), inputs="another")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and would get an error instead
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
spec.save()
"""


def specified(folder: Path, inputs: str) -> TrainingSpec:
    return TrainingSpec(
        run_dir=str(folder),
        pipeline="returns",
        table_uri="s3://cloud/lake/training_set_returns",
        table_version=3,
        inputs=inputs,
        training=Training(),
    )


def save_killed(source: Path) -> None:
    """Save what a file specifies, with other inputs, in a process that the kernel kills in the middle of the file."""
    command = [sys.executable, "-c", _SAVES_KILLED, str(source), str(_KILLED_AT_BYTES)]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == -signal.SIGXFSZ, done.stderr


def test_a_save_that_is_killed_in_the_middle_of_the_file_leaves_the_one_before(tmp_path: Path) -> None:
    spec = specified(tmp_path, "before")
    path = spec.save()
    whole = path.read_bytes()
    assert len(whole) > _KILLED_AT_BYTES
    save_killed(path)
    assert path.read_bytes() == whole
    assert load_spec(path) == spec
    later = replace(spec, inputs="later")
    later.save()
    assert load_spec(path) == later


def test_the_first_save_that_is_killed_leaves_no_specification(tmp_path: Path) -> None:
    elsewhere = specified(tmp_path / "elsewhere", "before")
    elsewhere.folder.mkdir()
    source = elsewhere.save()
    (tmp_path / "run").mkdir()
    moved = replace(elsewhere, run_dir=str(tmp_path / "run")).save()
    moved.rename(source)
    save_killed(source)
    assert not (tmp_path / "run" / SPEC_FILE).exists()


def test_a_node_that_reads_while_it_is_written_again_never_sees_a_part(tmp_path: Path) -> None:
    spec = specified(tmp_path, "x" * 200_000)
    spec.save()
    ended, enough = threading.Event(), threading.Event()

    def write() -> None:
        for number in count():
            replace(spec, table_version=number).save()
            if number >= 150 and enough.is_set():
                break
        ended.set()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    reads = 0
    while not ended.is_set():
        assert load_spec(tmp_path / SPEC_FILE).inputs == spec.inputs
        reads += 1
        if reads > 10:
            enough.set()
    writer.join()
