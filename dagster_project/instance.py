"""The Dagster instance under the home folder: SQLite, no telemetry, ready before anything uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

_TEMPLATE = Path(__file__).with_name("dagster.yaml")
_RUNNER_CONFIG = "runner.yaml"

# Dagster takes the file descriptors of standard output for its logs; the command line draws its progress there.
_RUNNER_ADDITION = """
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


def ensure_instance(settings: Settings) -> Path:
    """Write the instance's configuration where it is missing or old; returns DAGSTER_HOME.

    Raises:
        OSError: The home folder cannot be written.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    text = _TEMPLATE.read_text().replace("$home", str(home))
    for name, content in (("dagster.yaml", text), (_RUNNER_CONFIG, text + _RUNNER_ADDITION)):
        path = home / name
        if not path.exists() or path.read_text() != content:
            unfinished = path.with_name(f".{name}")
            unfinished.write_text(content)
            unfinished.replace(path)
    return home


@contextmanager
def runner_instance(settings: Settings) -> Iterator["DagsterInstance"]:
    """The same instance for runs inside this process, whose output stays on the terminal."""
    from dagster import DagsterInstance

    home = ensure_instance(settings)
    with DagsterInstance.from_config(str(home), config_filename=_RUNNER_CONFIG) as instance:
        yield instance
