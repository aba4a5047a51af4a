"""The suite itself: a skip that is not allowed fails the run, and property tests try new examples in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

SUPPORT = Path(__file__).parents[1] / "support"


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("test_sample.py").write_text(
        "import pytest\n\ndef test_runs():\n    pass\n\ndef test_waits_for_redis():\n    pytest.skip('no redis')\n"
    )
    folder.joinpath("list.toml").write_text('[[skip]]\ntest = "test_sample.py::test_waits"\nreason = "as an example"\n')
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "allowed_skips", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SUPPORT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("processes", [(), ("-p", "xdist", "-n", "1")], ids=["in-process", "xdist"])
def test_a_skip_that_is_not_on_the_list_fails_the_run_and_is_named(tmp_path: Path, processes: tuple[str, ...]) -> None:
    tmp_path.joinpath("none.toml").write_text('[[skip]]\ntest = "test_other.py"\nreason = "another"\n')
    run = run_pytest(tmp_path, "--only-allowed-skips", "--allowed-skips=none.toml", *processes)
    assert run.returncode == 1, run.stdout
    assert "test_sample.py::test_waits_for_redis: Skipped: no redis" in run.stdout


def test_a_skip_on_the_list_passes(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "--only-allowed-skips", "--allowed-skips=list.toml")
    assert (run.returncode, "1 passed, 1 skipped" in run.stdout) == (0, True), run.stdout


def test_a_list_without_a_reason_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("bare.toml").write_text('[[skip]]\ntest = "test_sample.py"\n')
    run = run_pytest(tmp_path, "--only-allowed-skips", "--allowed-skips=bare.toml")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "`reason`" in run.stderr


def test_property_tests_try_new_examples_and_print_what_reproduces_a_failure() -> None:
    assert not hypothesis_settings.default.derandomize
    assert hypothesis_settings.default.print_blob
