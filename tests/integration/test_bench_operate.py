"""`make bench-operate` at its smallest size: its answers are counted, replayed and shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from _operate import report  # noqa: E402  # the benchmarks are no package


@pytest.mark.slow
def test_logged_answers_are_counted_and_equal_when_they_are_computed_again(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "operate.py", "--size", "tiny", "--work", tmp_path]
    for section in ("parity", "keeps-up"):
        command += ["--only", section]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    sections = json.loads((tmp_path / "tiny" / "operate.json").read_text())["sections"]
    parity, keeping = sections["parity"], sections["keeps-up"]
    assert (parity["requests"], parity["equal"], parity["differ"]) == (3_000, 3_000, 0)
    assert parity["by_model"] == 3_000 - 2 * 30  # one of 50 had no time for the model
    assert parity["values"] == parity["by_model"] * 50 * 32
    assert parity["stores"] == ["equal", "equal"]
    statuses = keeping["load"]["statuses"]
    assert keeping["rows"] == keeping["distinct"] == keeping["answered"] > statuses["200"] > 0
    assert keeping["lost"] == 0
    # After it stood still, a reader refuses what has come meanwhile and is too much; nothing else may fail.
    assert keeping["load"]["failed"] == statuses.get("429", 0)
    keeping["load"]["failed"] = 0
    rows = [row for name, section in sections.items() for row in report.rows_of(name, section)]
    assert not [row.what for row in rows if row.met is False and row.unit == ""]
