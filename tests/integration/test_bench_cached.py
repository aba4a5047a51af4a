"""`make bench-realtime`, section cached: its reader answers from the cache what the model answers without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURE = """
import json, sys
from dataclasses import replace
from pathlib import Path
from _common import command
command.measure_this_tree()
from _realtime import cached
from _realtime.sizes import SIZES
sizes = replace(SIZES["tiny"], distinct=300, window_s=1.0, final_s=2.0)
print("RESULT", json.dumps(cached.measure(Path(sys.argv[1]), sizes)))
"""


@pytest.mark.slow
def test_the_cache_answers_what_the_model_answers_and_says_how_often(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (BENCHMARKS, BENCHMARKS.parent)))}
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rpartition("RESULT ")[2])
    assert set(found["models"]) == {"network", "trees"}
    for each in found["models"].values():
        compared = each["compared"]
        assert (compared["answers"], compared["wrong"]) == (800, 0)
        assert compared["cached"] >= 600, "at least the second ask of each, and both after the load"
        [ours], [without] = each["with"], each["without"]
        assert 0.3 < ours["hit_rate"] < 1, "requests repeat, and some are new"
        assert without["hit_rate"] is None, "there is no cache that was asked"
