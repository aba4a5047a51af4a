"""The session of `forecache run`, which gives settings to the runs of this process, and receives stages and errors.

A run that Dagster started has none: its settings come from the environment, its stages go to the event log.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings


@dataclass
class RunSession:
    """One call of the runner."""

    settings: Settings
    progress: Progress
    on_stage: Callable[[StageResult], None]
    results: list[StageResult] = field(default_factory=list)  # the stages that ended, in order
    error: Exception | None = None  # the error of the last stage that failed
    # reasons of failed checks that did not fail their stage, such as the gate's verdict on a model
    objections: list[str] = field(default_factory=list)

    def add_result(self, result: StageResult) -> None:
        self.results.append(result)
        self.on_stage(result)


_current: ContextVar[RunSession | None] = ContextVar("forecache_session", default=None)


def current_session() -> RunSession | None:
    """The session of runs in this context; None in a process that Dagster started."""
    return _current.get()


@contextmanager
def use_session(session: RunSession) -> Iterator[RunSession]:
    """Make a session the current one for runs that the block executes."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
