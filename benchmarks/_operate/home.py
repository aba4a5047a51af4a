"""A home with two releases of one model over the same views, one of which logs every answer; and processes beside."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from _realtime import case, home
from _store.processes import OTHER_CORE, PYTHON, running
from bench_ranking.pipelines import rank

from forecache.base.settings import Settings
from forecache.operations.release import release_model
from forecache.realtime.log.record import table_of
from forecache.realtime.release.folder import open_releases

WITHOUT, WITH = case.NETWORK, "logged"
"""The model without and with a request log."""


def serving(work: Path, keys: int) -> Settings:
    """A home that answers by both, with an empty log."""
    models = work / "models"
    case.write_models(models, (case.NETWORK,))
    settings = home.serving(work / "home", models, keys, (WITHOUT,))
    shutil.rmtree(open_releases(settings, WITH).root, ignore_errors=True)
    requests = [case.encoded(body) for body in case.bodies(50, 1000, seed=9)]
    release_model(settings, rank.logged, warmup=requests)
    forget_log(settings)
    return settings


def forget_log(settings: Settings) -> None:
    """Remove what was logged, in the spool and in the lake."""
    shutil.rmtree(settings.request_log_path, ignore_errors=True)
    for table in (table_of(WITH), f"parity_{WITH}"):
        shutil.rmtree(settings.table_uri(table), ignore_errors=True)


@contextlib.contextmanager
def committer(settings: Settings, *, core: int | None = OTHER_CORE) -> Iterator[int]:
    """`forecache log commit` while the block runs, as beside a reader; yields its process id."""
    settings.request_log_path.mkdir(parents=True, exist_ok=True)
    command = [PYTHON, "-m", "forecache.cli.main", "log", "commit"]
    with running(
        ["nice", "-n", "5", *map(str, command)],
        log=settings.home_path / "committer.log",
        ready=(settings.request_log_path / ".committer").exists,
        core=core,
        environment={"FORECACHE_HOME": str(settings.home_path)},
    ) as pid:
        yield pid


@contextlib.contextmanager
def reader(settings: Settings, *, core: int) -> Iterator[int]:
    """The reader with one worker, without a committer of its own; yields its port."""
    with home.reader(settings, WITHOUT, WITH, core=core, FORECACHE_REQUEST_LOG_COMMITTER="off") as port:
        yield port
