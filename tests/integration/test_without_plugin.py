"""Without a plug-in's folder, everything else imports, answers `--help` and type-checks."""

import subprocess
import sys

import pytest

from forecache.base.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("plugin", ["cost", "recommend", "redis"])
def test_all_else_works_without_a_plugin(plugin: str) -> None:
    command = [sys.executable, "scripts/without_plugin.py", plugin]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{plugin}: works without it\n"), done.stdout + done.stderr
