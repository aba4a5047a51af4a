"""The tutorial of real-time models: its commands as they stand on the page, from landing files to answers over HTTP."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

from forecache.base.settings import PROJECT_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]

PAGE = PROJECT_ROOT / "docs" / "tutorials" / "real-time.md"
# A busy machine may take a request past its 30 ms; it is sent again, unless it asks for less time.
_BEFORE = """set -euo pipefail
set -m
trap 'kill $(jobs -p) 2>/dev/null' EXIT
curl() {
  local answer
  for _ in {1..50}; do
    answer=$(command curl "$@") || return
    [[ $* != *X-Deadline* && $answer == *'"fallback_reason":"deadline"'* ]] || break
  done
  printf '%s' "$answer"
}"""


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that a text has, wherever they begin."""
    found, decoder, place = [], json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, length = decoder.raw_decode(text[place:])
            found.append(value)
        except json.JSONDecodeError:
            length = 1
        place = text.find("{", place + length)
    return found


def test_the_commands_of_the_page_end_in_answers_of_the_model_and_of_the_fallbacks(tmp_path: Path) -> None:
    commands = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    port = free_port()
    script = "\necho\n".join([_BEFORE, *commands])
    environment = {
        **os.environ,
        "PATH": f"{PROJECT_ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "FORECACHE_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        ["bash", "-c", script.replace("8080", str(port)).replace('PYTHONPATH="', 'PYTHONPATH="$PWD:')],
        cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [each for each in _objects(done.stdout) if "answered_by" in each or "detail" in each]
    known, unknown, late, refused = answers[-4:]
    assert (known["answered_by"], unknown["answered_by"]) == ("model", "model")
    assert known["value"]["fraud_score"] > 0.5
    assert known["stores"]["spending"]["as_of"] == "2026-03-31"
    assert known["stores"]["spending"]["stale"]
    assert (late["answered_by"] in ("precomputed", "default"), late["fallback_reason"]) == (True, "deadline")
    assert "user" in refused["detail"]
    assert "fraud 1 (champion) passed the gate" in done.stdout
