"""The page on registered models, run as it stands: its files written, its commands one after the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_port

from forecache.base.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "tutorials" / "registered-model.md"


@pytest.mark.slow
def test_every_command_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    script = ["set -ex"]
    for language, title, content in blocks:
        if title:
            script += [f"mkdir -p $(dirname {title})", f"cat > {title} <<'PAGE'\n{content}PAGE"]
        elif language == "console":
            script += [line.removeprefix("$ ") for line in content.splitlines() if line.startswith("$ ")]
    told = {name: value for name, value in os.environ.items() if not name.startswith(("FORECACHE_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script).replace("8080", str(free_port()))],
        cwd=tmp_path,
        env={**told, "PATH": path, "PYTHONPATH": str(PROJECT_ROOT), "FORECACHE_SPARK_MASTER": "local[2]"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # The answer has no newline at its end: what the next command says may follow on its line.
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    answer, _ = json.JSONDecoder().raw_decode(line)
    assert answer["model"] == {"name": "churn_model", "version": 1}
    assert 0 <= answer["value"]["churn_probability"] <= 1
    assert re.search(r"churn_model.*\b1\b.*\b1,?000\b", done.stdout)
    assert "production" in done.stdout
