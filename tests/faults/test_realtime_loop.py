"""A transform that misbehaves on the reader's event loop: no answer is late, and nothing else suffers."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from open_loop import OpenLoop, post
from pool_support import HeldUp
from ranking_code import faults
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import a_request, make_release
from waiting import eventually

from forecache.base.settings import Settings, load_settings

DEADLINE_MS = 1000.0
"""For what never ends; what does has a deadline that a reader meets though it stands still for a while."""


@pytest.fixture
def deadline_ms() -> float:
    return DEADLINE_MS


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory, deadline_ms: float) -> Settings:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")))
    write_views(settings)
    make_release(settings, transform=faults.misbehave, deadline_ms=deadline_ms, runs="loop")
    return settings


@pytest.fixture
def reader(settings: Settings) -> Iterator[RunningReader]:
    with running_reader(settings) as running:
        yield running


def ask(reader: RunningReader, store: int = 1) -> dict[str, Any]:
    request = json.loads(a_request()) | {"store_id": store}
    response = httpx.post(f"{reader.url}/v1/ranking", json=request)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def runs(reader: RunningReader) -> str:
    return str(httpx.get(f"{reader.url}/v1/ranking").json()["runs"])


@pytest.mark.parametrize("deadline_ms", [60_000.0])
@pytest.mark.parametrize(("fault", "why"), [(faults.FAIL, "failed"), (faults.SHAPE, "failed"), (faults.EXIT, "failed")])
def test_an_error_of_the_transform_leads_down_the_fallbacks_and_stays_in_the_loop(
    reader: RunningReader, fault: int, why: str
) -> None:
    answer = ask(reader, fault)
    assert (answer["answered_by"], answer["fallback_reason"]) == ("order_given", why)
    assert eventually(lambda: ask(reader)["answered_by"] == "model")
    assert runs(reader) == "loop"


@pytest.mark.parametrize("deadline_ms", [60_000.0])
def test_a_model_that_was_slow_is_asked_again_soon_by_those_with_less_time(reader: RunningReader) -> None:
    def asked_with_less_time() -> tuple[str, str | None]:
        headers = {"x-deadline-ms": "40"}
        answer = httpx.post(f"{reader.url}/v1/ranking", content=a_request(), headers=headers).json()
        return answer["answered_by"], answer.get("fallback_reason")

    def is_known_as_slow() -> bool:
        slow = [ask(reader, faults.SLOW)["answered_by"] for _ in range(20)]
        return slow.count("model") >= 15 and asked_with_less_time() == ("order_given", "deadline")

    assert ask(reader)["answered_by"] == "model"
    assert eventually(is_known_as_slow)  # a busy machine may take one past its deadline
    assert eventually(lambda: asked_with_less_time()[0] == "model")


def test_a_spin_is_ended_in_time_and_its_model_goes_on_in_processes_of_its_own(reader: RunningReader) -> None:
    [worker] = reader.workers()
    with HeldUp(worker) as held_up:
        before = held_up.seconds
        answer = ask(reader, faults.SPIN)
        held_up_ms = 1000 * (held_up.seconds - before)
    assert (answer["answered_by"], answer["fallback_reason"]) == ("order_given", "deadline")
    assert answer["timings_ms"]["total"] < DEADLINE_MS + held_up_ms
    assert httpx.get(f"{reader.url}/v1/product/a").status_code == 200
    meanwhile: list[str] = []

    def has_moved_out() -> bool:
        meanwhile.append(ask(reader)["answered_by"])
        return runs(reader) == "process"

    assert eventually(has_moved_out, 300)
    assert "model" in meanwhile, "also while its processes are started"
    assert eventually(lambda: ask(reader)["answered_by"] == "model")
    with HeldUp(worker) as held_up:
        before = held_up.seconds
        again = ask(reader, faults.SPIN)
        held_up_ms = 1000 * (held_up.seconds - before)
    assert again["answered_by"] == "order_given"
    assert again["timings_ms"]["total"] < DEADLINE_MS + held_up_ms
    assert ask(reader)["answered_by"] in ("model", "order_given")


def test_a_sleep_is_ended_in_time_and_five_of_them_move_the_model_out(reader: RunningReader) -> None:
    for _ in range(5):
        began = time.monotonic()
        answer = ask(reader, faults.SLEEP)
        assert time.monotonic() - began < 55  # it sleeps for a minute
        # On a busy machine it has moved out before, and its processes sleep.
        assert answer["fallback_reason"] == "deadline" or (
            answer["fallback_reason"] == "refused" and runs(reader) == "process"
        )
        assert answer["answered_by"] == "order_given"
    assert eventually(lambda: runs(reader) == "process")


def test_many_times_what_the_model_can_do_is_answered_in_time_and_the_model_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")))
    write_views(settings)
    burn = json.dumps(json.loads(a_request()) | {"store_id": faults.BURN}).encode()
    make_release(settings, transform=faults.misbehave, deadline_ms=300.0, runs="loop", warmup=[burn])
    sent = post("/v1/ranking", burn)
    by_model: dict[int, float] = {100: 0.0, 600: 0.0}
    late: dict[int, float] = {100: 1.0, 600: 1.0}

    def ask_for_a_while(rate: int) -> None:
        with OpenLoop(reader.port, lambda _: sent, rate) as load:
            time.sleep(2)
        # What there is no time for is refused at once, and everything else has an answer.
        assert {one.status for one in load.lost()} <= {429}
        answers = [json.loads(one.body) for one in load.asked if one.status == 200]
        # It knows when it cannot answer by the model: at once, and not only when the deadline has come.
        assert {answer.get("fallback_reason") for answer in answers} <= {None, "overload", "deadline"}
        by_model[rate] = max(
            by_model[rate], sum(each["answered_by"] == "model" for each in answers) / load.asked[-1].due_s
        )
        late[rate] = min(late[rate], sum(bool(each.get("late")) for each in answers) / len(answers))

    with running_reader(settings) as reader:
        for _ in range(6):  # the best of some turns, as other work of the machine comes and goes
            ask_for_a_while(100)
            ask_for_a_while(600)
            # The HTTP of what is given up has its price, but nothing collapses.
            if max(late.values()) < 0.1 and by_model[600] > by_model[100] / 2:
                break
    assert max(late.values()) < 0.1
    assert by_model[100] / 2 < by_model[600] < 600 / 3
