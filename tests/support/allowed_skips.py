"""A pytest plugin: with `--only-allowed-skips`, a test that is skipped without being on the list fails the run.

The list is `tests/allowed_skips.toml`: the beginning of a test's name, and why it may be skipped. Without it a machine
on which Redis cannot be installed would report success for tests that never ran.
"""

from pathlib import Path

import pytest

LIST = Path(__file__).parents[1] / "allowed_skips.toml"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-allowed-skips", action="store_true", help="Fail the run where a test is skipped that is not on the list"
    )
    parser.addoption("--allowed-skips", type=Path, default=LIST, help="The list of tests that may be skipped (TOML)")


def pytest_configure(config: pytest.Config) -> None:
    # With several processes, the one that the others report to sees every test.
    if config.getoption("--only-allowed-skips") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipJudge(_prefixes(config.getoption("--allowed-skips"))), "skip-judge")


class SkipJudge:
    """Collects the skipped tests of a run and judges them at its end."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and not report.nodeid.startswith(self.allowed):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped and not report.nodeid.startswith(self.allowed):
            self.unexpected.append(f"{report.nodeid}: the whole file")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.unexpected:
            return
        terminalreporter.section("skipped, and not on the list of tests that may be", red=True)
        for line in self.unexpected:
            terminalreporter.write_line(line)


def _prefixes(path: Path) -> tuple[str, ...]:
    """Beginnings of test names; an entry without a reason is refused."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    entries = tomllib.loads(path.read_text())["skip"]
    for entry in entries:
        if not entry.get("test") or not entry.get("reason"):
            raise pytest.UsageError(f"{path}: every [[skip]] has a `test` and a `reason`: {entry}")
    return tuple(entry["test"] for entry in entries)
