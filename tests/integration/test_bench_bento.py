"""`make bench-realtime`, section bento: the real BentoML serves the reader's release and gives the reader's bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bento_server import BENTOML

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURE = """
import json, sys
from dataclasses import replace
from pathlib import Path
from _common import command
command.measure_this_tree()
from _realtime import bento, best_rate
from _realtime.sizes import SIZES
best_rate.search = lambda run, limits, *, first: 50.0  # the search has tests of its own
sizes = replace(SIZES["tiny"], keys=500, probe_s=0.2)
print("RESULT", json.dumps(bento.measure(Path(sys.argv[1]), sizes, python=Path(sys.argv[2]))))
"""


@pytest.mark.slow
def test_the_service_answers_from_the_readers_release_with_its_bits(tmp_path: Path) -> None:
    if not BENTOML.exists():
        pytest.fail("BentoML is not installed: bash scripts/install_test_services.sh bentoml")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (BENCHMARKS, BENCHMARKS.parent)))}
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(BENTOML.parent / "python")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rpartition("RESULT ")[2])
    assert found["compared"] == {"answers": 400, "wrong": 0}
    assert {"bentoml", "onnxruntime", "numpy"} <= set(found["versions"])
    assert set(found["servers"]) == {"Forecache", "BentoML service"}
    for server in found["servers"].values():
        [low] = server["low"]
        # After it stood still, a reader refuses what has come meanwhile and is too much; nothing else may fail.
        assert low["requests"] == 100 == low["statuses"]["200"] + low["statuses"].get("429", 0)
        assert low["cpu_us"] > 0
    assert "/v1/network" not in (tmp_path / "bento" / "service.log").read_text(), "no access log is kept"
