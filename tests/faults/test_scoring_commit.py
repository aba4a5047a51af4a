"""Predictions end with each key once, in a log that every reader accepts, whoever is killed or comes second."""

import random
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from scoring_race import PIPELINE, ROWS, Model, a_model, prepare_nights, race, run_until, score_nights, score_when_told
from scoring_support import predictions
from warm import assert_valid_log, die, log_of, processes, start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import COMMIT_STEPS
from forecache.kit.delta.comparison.partition import to_plain_types
from forecache.lake.ledger import last_records
from forecache.scoring.night_inputs import STAGE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.slow, pytest.mark.faults]

_KINDS = ("first", "again", "two nights")
_INSTANTS = 10  # of each kind
_RUNS = 40


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", code_version="fixed")


def killed(settings: Settings, nights: list[date], model: Model, *, step: int = -1, wait_s: float = -1) -> list[str]:
    """Score in a process that dies after a step, or so long after its first file; returns the steps it came to."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(run_until, settings.home, nights, model, step, theirs)
    theirs.close()
    found = []
    try:
        while True:
            found.append(_heard(ours))
            if wait_s >= 0 and found[-1] == "file written":
                time.sleep(wait_s)
                die(process)
                wait_s = -1
    except EOFError:
        process.join()
    return found


def content(table: pa.Table) -> list[dict[str, Any]]:
    """Predictions without what tells one run from another, by night and key."""
    return (
        table.drop_columns(["scored_at", "run_id"])
        .sort_by([("as_of", "ascending"), ("user_id", "ascending")])
        .to_pylist()
    )


@dataclass(frozen=True)
class Ended:
    """A lake in which every night's run was killed once, or more, and run again; and what it should hold."""

    lake: Settings
    expected: list[dict[str, Any]]


@pytest.fixture(scope="module", params=_KINDS)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    kind = request.param
    lake, undisturbed = (
        load_settings(home=tmp_path_factory.mktemp(name), code_version="fixed") for name in ("killed", "undisturbed")
    )
    together = 2 if kind == "two nights" else 1
    nights = prepare_nights(lake, _RUNS * together)
    prepare_nights(undisturbed, _RUNS * together)
    old, new = a_model(lake, 1), a_model(lake, 0)
    score_nights(undisturbed, nights, new)
    free = iter(nights)
    used: list[date] = []

    def some() -> list[date]:
        """The next nights: one, one that the old model scored, or two that share a commit."""
        taken = [next(free) for _ in range(together)]
        used.extend(taken)
        if kind == "again":
            score_nights(lake, taken, old)
        return taken

    def end(taken: list[date], came_to: list[str]) -> None:
        # A model's first run commits its calibration to the ledger before it scores.
        was_committed = "checked" in came_to and "committed" in came_to[came_to.index("checked") :]
        version = DeltaTable(lake.table_uri(PIPELINE.prediction_table)).version() if was_committed else None
        result = score_nights(lake, taken, new, "rerun")
        if version is not None:  # then only the row in the ledger may be missing
            assert (result.details.get("scored_rows", 0), result.delta_version) == (0, version)
        ledger = last_records(lake, STAGE, PIPELINE.name)
        assert all(ledger[night].rows == ROWS for night in taken)

    steps = killed(lake, some(), new)
    assert set(steps) == set(COMMIT_STEPS)
    for step in range(1, len(steps)):
        taken = some()
        end(taken, killed(lake, taken, new, step=step))

    moments, window_s = random.Random(kind), _window(lake, some(), new)
    hits = 0
    while hits < _INSTANTS:
        taken = some()
        came_to = killed(lake, taken, new, wait_s=moments.uniform(0, window_s))
        if "recorded" in came_to:
            window_s *= 0.5  # the machine has become faster, or stood still when it was measured
        hits += "recorded" not in came_to
        end(taken, came_to)
    return Ended(lake, [row for row in content(_all(undisturbed)) if row["as_of"] in set(used)])


def test_runs_killed_at_every_step_and_at_random_instants_end_with_an_undisturbed_runs_table(ended: Ended) -> None:
    uri = ended.lake.table_uri(PIPELINE.prediction_table)
    assert_valid_log(uri)
    assert content(_all(ended.lake)) == ended.expected
    assert _from_feed(DeltaTable(uri).load_cdf(starting_version=0).read_all()) == ended.expected


def test_spark_reads_the_same_after_the_kills_and_its_change_feed_adds_up_to_it(
    ended: Ended, spark: "SparkSession"
) -> None:
    uri, columns = ended.lake.table_uri(PIPELINE.prediction_table), _all(ended.lake).schema.names
    assert content(spark.read.format("delta").load(uri).toArrow().select(columns)) == ended.expected
    feed = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", 0).load(uri)
    assert _from_feed(feed.toArrow()) == ended.expected


def _all(settings: Settings) -> pa.Table:
    return DeltaTable(settings.table_uri(PIPELINE.prediction_table)).to_pyarrow_table()


def _window(settings: Settings, nights: list[date], model: Model) -> float:
    """Seconds from a run's first file to its row in the ledger."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(run_until, settings.home, nights, model, -1, theirs)
    theirs.close()
    assert _heard(ours) == "file written"
    started = time.perf_counter()
    while _heard(ours) != "recorded":
        pass
    process.join()
    return time.perf_counter() - started


def _from_feed(feed: Any) -> list[dict[str, Any]]:
    """The rows that a change feed adds up to, each of which it has put in once more than taken out."""
    table = to_plain_types(pa.table(feed))
    columns = [name for name in table.column_names if not name.startswith("_")]
    signs = [1 if kind == "insert" else -1 for kind in table["_change_type"].to_pylist()]
    grouped = (
        table.select(columns).append_column("sign", pa.array(signs)).group_by(columns).aggregate([("sign", "sum")])
    )
    sums = grouped["sign_sum"].to_pylist()
    assert set(sums) <= {0, 1}
    return content(grouped.filter(pa.array([each == 1 for each in sums])).select(columns))


def _heard(pipe: Any) -> Any:
    assert pipe.poll(120), "a process says nothing"
    return pipe.recv()


def raced(lake: Settings, rounds: list[list[tuple[date, Model]]]) -> list[tuple[Any, Any]]:
    """Let two processes, as on two machines, score the same nights at once; what each of them said, round by round."""
    barrier = processes().Barrier(2)
    pipes = [processes().Pipe(duplex=False) for _ in rounds]
    homes = [lake.home / name for name in ("one", "two")]
    started = [
        start(race, home, lake.lake_uri, some, barrier, theirs)
        for home, some, (_, theirs) in zip(homes, rounds, pipes, strict=True)
    ]
    for _, theirs in pipes:
        theirs.close()
    said = [tuple(_heard(ours) for ours, _ in pipes) for _ in rounds[0]]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    return said


def test_of_two_runs_of_a_night_at_once_one_commits_and_the_other_takes_over_its_rows(
    lake: Settings, tmp_path: Path, spark: "SparkSession"
) -> None:
    nights = prepare_nights(lake, 20)
    undisturbed = load_settings(home=tmp_path / "undisturbed", code_version="fixed")
    prepare_nights(undisturbed, 20)
    old, new = a_model(lake, 1), a_model(lake, 0)
    score_nights(undisturbed, nights, new)
    rounds = [(night, model) for model in (old, new) for night in nights]
    said = raced(lake, [rounds, rounds])
    for position, (night, _) in enumerate(rounds):
        assert sorted(map(str, said[position])) in (
            [str({night.isoformat(): f"{winner}-{position}"}), "{}"] for winner in ("one", "two")
        ), said[position]
    uri = lake.table_uri(PIPELINE.prediction_table)
    assert_valid_log(uri)
    assert len(log_of(uri)) == len(rounds)
    expected = content(_all(undisturbed))
    assert content(_all(lake)) == expected
    assert content(spark.read.format("delta").load(uri).toArrow().select(_all(lake).schema.names)) == expected


def test_of_two_runs_of_a_night_with_two_models_at_once_the_slower_says_who_was_faster(lake: Settings) -> None:
    nights = prepare_nights(lake, 10)
    models = [a_model(lake, seed) for seed in range(4)]
    said = raced(lake, [[(night, model) for night in nights for model in models[i::2]] for i in (0, 1)])
    seen: set[str] = set()
    for position, both in enumerate(said):
        (loser,) = [i for i, word in enumerate(both) if word != {}]
        winner = ("one", "two")[1 - loser]
        assert f"Run '{winner}-{position}' was faster: it changed as_of {nights[position // 2]}" in both[loser]
        seen.add(winner)
    assert_valid_log(lake.table_uri(PIPELINE.prediction_table))
    for night in nights:
        keys = predictions(lake, PIPELINE, night=night)["user_id"].to_pylist()
        assert (len(keys), len(set(keys))) == (ROWS, ROWS)


def test_a_second_run_on_the_same_machine_says_for_whom_it_waits_and_finds_nothing_to_do(lake: Settings) -> None:
    (night,) = prepare_nights(lake, 1)
    model, go = a_model(lake, 0), processes().Event()
    pipes = [processes().Pipe(duplex=False) for _ in range(2)]
    first = start(score_when_told, lake.home, night, model, pipes[0][1], go)
    while not _heard(pipes[0][0]).startswith("scoring 2024"):
        pass
    second = start(score_when_told, lake.home, night, model, pipes[1][1], go)
    assert _heard(pipes[1][0]) == f"waiting for process {first.pid} (writes predictions_demo, run {first.pid})"
    go.set()
    assert _heard(pipes[1][0]) is True
    for process in (first, second):
        process.join(120)
        assert process.exitcode == 0
    assert len(log_of(lake.table_uri(PIPELINE.prediction_table))) == 1
