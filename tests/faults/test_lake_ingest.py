"""Ingestion in real processes: killed with SIGKILL at each step, and two at once, it leaves what one run would have."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ingest_job import ORDERS, STEPS, settings_of
from spark_worker import SparkWorker

from forecache.base.settings import Settings
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import FILES_TABLE

pytestmark = [pytest.mark.slow, pytest.mark.faults]

INGEST = "ingest_job:ingest_at"
HEADER = "order_id,day,amount\n"
FIRST = {
    "2026-01-01.csv": HEADER + "a,2026-01-01,1\nb,2026-01-01,-1\nc,2026-01-01,x\n",
    "2026-01-02.csv": HEADER + "d,2026-01-02,2\na,2026-01-02,3\n",
    "2026-01-03.csv": "order_id,day\n",
}
# Of the events that both have, those of the file that is first by name are kept.
LATER = {
    "2026-01-01.0.csv": HEADER + "e,2026-01-01,1\nc,2026-01-01,5\n",
    "2026-01-02.0.csv": HEADER + "f,2026-01-02,7\nd,2026-01-02,7\ne,2026-01-02,7\n",
}
# What differs from run to run.
PASSING = {"ingested_at", "modified_at", "raw_version", "run_id", "code_version"}


def land(settings: Settings, files: dict[str, str]) -> None:
    folder = Path(settings.landing_uri) / ORDERS.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def contents(settings: Settings) -> dict[str, list[list[Any]]]:
    """All rows of the three tables, but for what differs from run to run."""
    found = {}
    for name in (ORDERS.raw_table, ORDERS.quarantine_table, FILES_TABLE):
        rows = open_table(settings, name).to_pyarrow_table().to_pylist()
        kept = [[value for column, value in sorted(row.items()) if column not in PASSING] for row in rows]
        found[name] = sorted(kept, key=str)
    return found


@pytest.fixture(scope="module")
def undisturbed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents after one ingestion of each of these landings, one after the other."""

    def ingested(settings: Settings, *landings: dict[str, str]) -> Iterator[Any]:
        for files in landings:
            land(settings, files)
            ingest(settings, ORDERS)
            yield contents(settings)

    first, both = ingested(settings_of(tmp_path_factory.mktemp("quiet")), FIRST, LATER)
    (at_once,) = ingested(settings_of(tmp_path_factory.mktemp("quiet")), FIRST | LATER)
    return {"first": first, "first, then later": both, "all at once": at_once}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SparkWorker]]:
    """Two processes that have ingested before."""
    homes = [tmp_path_factory.mktemp("warm") / "home" for _ in range(2)]
    started = [SparkWorker(home) for home in homes]
    for worker, home in zip(started, homes, strict=True):
        worker.tell("ingest_job:warm_up", home=home)
    for worker in started:
        assert worker.answer() is None
    yield started
    for worker in started:
        worker.close()


@pytest.mark.parametrize("unlocked", [False, True])
def test_two_ingestions_at_once_leave_each_file_once(
    undisturbed: dict[str, Any], workers: list[SparkWorker], tmp_path: Path, unlocked: bool
) -> None:
    # Without the lock each overtaken ingestion judges anew; tests/integration/test_lake_ingest_commit.py has many more.
    for number in range(2 if unlocked else 3):
        settings = settings_of(tmp_path / f"home-{number}")
        for files, expected in ((FIRST, "first"), (LATER, "first, then later")):
            land(settings, files)
            at = time.time() + 0.2
            for worker in workers:
                worker.tell(INGEST, home=settings.home_path, start_at=at, unlocked=unlocked)
            answers = [worker.answer() for worker in workers]
            assert all("files" in answer for answer in answers), answers
            assert len(files) <= sum(answer["files"] for answer in answers) <= 2 * len(files)
            assert contents(settings) == undisturbed[expected], (number, answers)


@pytest.mark.parametrize("step", STEPS)
def test_ingestion_killed_after_a_step_is_made_good_by_the_next(
    spark: Any, undisturbed: dict[str, Any], workers: list[SparkWorker], tmp_path: Path, step: str
) -> None:
    settings = settings_of(tmp_path / "killed")
    land(settings, FIRST)
    killed = workers[0].call(INGEST, home=settings.home_path, kill_after=step)
    assert killed == {"exit_code": -signal.SIGKILL}
    is_there = table_exists(settings, FILES_TABLE)
    entered = open_table(settings, FILES_TABLE).to_pyarrow_table().num_rows if is_there else 0
    assert entered == (3 if step == STEPS[-1] else 0)
    assert open_table(settings, ORDERS.raw_table).to_pyarrow_table().num_rows == 2

    land(settings, LATER)
    ingest(settings, ORDERS)
    # Files that were not entered are judged together with those that landed since.
    assert contents(settings) == undisturbed["first, then later" if step == STEPS[-1] else "all at once"]
