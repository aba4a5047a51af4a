"""The results of a day are in the table whole, those of before or the new ones, wherever their writer is killed."""

import json
import signal
from datetime import date, datetime, timezone
from typing import Any

import pytest
from deltalake import DeltaTable
from live_answers import LiveAnswering, Streaming, night_of, payments, release_of, write_night
from logged_answers import DAY, Answering, publish_views, release, requests, write_log
from parity_jobs import compare_until
from warm import processes, start

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.plugins.parity.replay import check_parity

NOW = datetime.now(timezone.utc)


def results(settings: Settings) -> list[dict[str, Any]]:
    return DeltaTable(settings.table_uri("parity_ranking")).to_pyarrow_table().to_pylist()


def killed_comparison(settings: Settings, day: date, step: str) -> None:
    process = start(compare_until, settings.home_path, day, step)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def summary(rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    """(rows, requests compared, requests that differ); every kind is there once for each name."""
    names = [(row["kind"], row["name"]) for row in rows]
    assert len(names) == len(set(names)), names
    (told,) = [row for row in rows if row["kind"] == "requests"]
    assert json.loads(told["details"])["requests"] == told["compared"]
    return len(rows), told["compared"], told["mismatch"]


@pytest.mark.parametrize("step", ["file written", "decided", "committed"])
def test_a_kill_leaves_the_results_of_before_or_the_new_ones(settings: Settings, step: str) -> None:
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    rows = [answering.answer(body) for body in requests(6)]
    answering.close()
    write_log(settings, rows[:5])
    check_parity(settings, "ranking", DAY, processes=1)
    before = summary(results(settings))
    assert before == (8, 5, 0)
    write_log(settings, [{**rows[5], "scores": rows[0]["scores"]}])
    killed_comparison(settings, DAY, step)
    assert summary(results(settings)) == ((8, 6, 1) if step == "committed" else before)
    check_parity(settings, "ranking", DAY, processes=1)
    assert summary(results(settings)) == (8, 6, 1)


def test_a_kill_while_answers_of_a_live_view_are_compared_leaves_the_results_of_before(settings: Settings) -> None:
    write_night(settings, night_of(NOW))
    release_of(settings)
    streaming, events = Streaming(settings), payments(NOW, 20)
    live = LiveAnswering(settings)
    streaming.take(events)
    streaming.commit()
    streaming.tail()
    live.ask(4, rivals=3)
    rows = live.logged()
    live.close()
    write_log(settings, rows[:3])
    day = rows[0]["day"]
    check_parity(settings, "ranking", day, processes=1)
    _, *before = summary(results(settings))
    assert before == [3, 0]
    write_log(settings, [{**rows[3], "scores": bytes(len(rows[3]["scores"]))}])
    killed_comparison(settings, day, "decided")
    assert summary(results(settings))[1:] == (3, 0)
    check_parity(settings, "ranking", day, processes=1)
    assert summary(results(settings))[1:] == (4, 1)


def test_two_at_once_leave_one_set_of_results(settings: Settings) -> None:
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    write_log(settings, [answering.answer(body) for body in requests(6)])
    answering.close()

    pipes = [processes().Pipe(duplex=False) for _ in range(2)]
    both = [start(compare_until, settings.home_path, DAY, "", theirs) for _, theirs in pipes]
    errors = [error for error in (ours.recv() for ours, _ in pipes) if error]
    for process in both:
        process.join(120)
    assert all(error == ConflictError.__name__ for error in errors), errors
    assert len(errors) < 2
    assert summary(results(settings)) == (8, 6, 0)
