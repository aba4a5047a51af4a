"""A release is rolled out by a real reader under traffic: the worst candidates hurt nobody and go by themselves."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from faulty_code import transforms
from pool_support import HeldUp
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import REQUEST, make_release
from rollout_support import LOG, NAME, QUICK, begin, state_of
from waiting import ThreadsBeside, eventually

from forecache.base.settings import Settings, load_settings
from forecache.declare import Guards
from forecache.declare.realtime.request import RequestField
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.rollouts.controller import AdvanceResult, advance_rollout, apply_manual_action
from forecache.realtime.log.answer_log import BUCKETS, bucket_of
from forecache.realtime.log.commit_segments import commit_ready
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import VARIANTS
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.rollout_state import RolloutState

pytestmark = [pytest.mark.faults, pytest.mark.slow]
DEADLINE_MS = 150.0
ROLLOUT = replace(QUICK, shares=(0.3, 0.6), requests=150)
PATIENT = replace(ROLLOUT, guards=Guards(0.2, 0.2, slow=None))
"""For a good release on a busy machine, where processes get their turn late."""
FAULT = RequestField("fault", "string", default="")
KEYS = 400
PATIENCE_S = 60.0
"""For an answer of a machine that stands still."""


class Traffic(ThreadsBeside):
    """Requests of many keys, one after the other with a pause, until it is stopped; every answer is kept."""

    def __init__(self, url: str) -> None:
        super().__init__(*(partial(self._ask, first) for first in (0, KEYS // 2)))
        self._url = url
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def of(self, variant: str) -> list[dict[str, Any]]:
        return [answer for answer in self.answers if answer.get("variant") == variant]

    def others(self) -> list[dict[str, Any]]:
        """Those that a candidate does not answer, while it is rolled out."""
        return [*self.of("current"), *self.of("control")]

    def _ask(self, first: int) -> None:
        number = 0
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not self.stop.is_set():
                household = first + number % (KEYS // 2)
                number += 1
                body = {"household_id": household, "candidates": [{"product_id": "a"}, {"product_id": "b"}]}
                response = client.post(self._url, content=json.dumps(body))
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                self.answers.append({**response.json(), "household": household})
                time.sleep(0.003)  # what is logged is read again at each look


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("faults") / "fault"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FAULT_FILE", str(file))
        yield file


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def reader(settings: Settings, fault_file: Path) -> Iterator[RunningReader]:
    write_views(settings)
    make_release(settings, log=LOG, deadline_ms=DEADLINE_MS)
    with running_reader(settings, request_log_delay_s=0.2, wait=False) as running:
        running.wait_until_ready()
        yield running


def candidate(settings: Settings, **changes: Any) -> int:
    """A further release, which is not current."""
    return make_release(settings, current=False, **{"log": LOG, "deadline_ms": DEADLINE_MS, **changes}).number


def roll_out(settings: Settings, number: int, **changes: Any) -> None:
    current = read_pointer(open_releases(settings, NAME)).current
    begin(settings, changes.pop("rollout", ROLLOUT), release=number, current=current, **changes)


@contextmanager
def traffic(reader: RunningReader) -> Iterator[Traffic]:
    with Traffic(f"{reader.url}/v1/{NAME}") as asking:
        yield asking
    assert asking.failures == []


def looked(settings: Settings) -> AdvanceResult:
    """A look at what was logged until now, and not at what comes meanwhile, of which there is always more."""
    commit_ready(settings, NAME)
    found = advance_rollout(settings, NAME)
    assert found is not None
    return found


def looked_until(settings: Settings, holds: Callable[[RolloutState], bool], timeout_s: float = 240) -> RolloutState:
    """The state of the first look at which that holds, or after which there are no more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = looked(settings).state
        if state.is_over or state.paused or holds(state):
            return state
        time.sleep(0.3)  # looks without a pause would take a core from the reader, whose answers would be late
    raise AssertionError(state_of(settings))


def looked_until_over(settings: Settings) -> RolloutState:
    return looked_until(settings, lambda _: False)


def processes_of(reader: RunningReader) -> set[int]:
    """Ids of the templates and model processes below a reader."""
    [worker] = reader.workers()
    found = set()
    for child in psutil.Process(worker).children(recursive=True):
        with suppress(psutil.Error):
            if "forecache.realtime.workers" in child.cmdline():
                found.add(child.pid)
    return found


CANARY: dict[str, Any] = {"stage": "canary", "share": 0.5, "slow_us": 1e6}


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.mark.parametrize("fault", ["sleep400", "crash", "spin"])
def test_a_candidate_that_fails_once_it_answers_is_returned_and_hurts_no_other_request(
    settings: Settings, reader: RunningReader, fault_file: Path, fault: str
) -> None:
    number = candidate(settings, transform=transforms.rank, request=(*REQUEST, FAULT), version=2)
    roll_out(settings, number, at=now(), **CANARY)
    [worker] = reader.workers()
    with traffic(reader) as asking, HeldUp(worker) as held_up:
        before = held_up.seconds
        assert eventually(lambda: any(each["release"] == number for each in asking.answers[-50:]))
        fault_file.write_text(fault)
        so_far = len(asking.others())
        assert eventually(lambda: len(asking.others()) > so_far + 100)  # before the look that may end it
        state = looked_until_over(settings)
        assert eventually(lambda: not any("variant" in each for each in asking.answers[-20:]))
        held_up_ms = 1000 * (held_up.seconds - before)
    fault_file.unlink()
    assert (state.stage, state.step.verdict) == ("returned", "returned"), state.why
    assert next(each.guard for each in state.step.compared if each.harmful) in ("without_model", "late")
    assert number in read_pointer(open_releases(settings, NAME)).bad
    others = asking.others()
    hurt = sum(each["answered_by"] != "model" or each.get("late", False) for each in others)
    assert hurt <= len(others) / 50 + 2 * held_up_ms / DEADLINE_MS  # of each client, one in so much of a busy machine
    variants: dict[int, set[str]] = {}
    for each in asking.answers:
        variants.setdefault(each["household"], set()).add(each.get("variant", "").replace("control", "current"))
    assert all({"current", "canary"} - found for found in variants.values())  # no key was in both


def test_a_candidate_that_replicas_cannot_load_is_returned(settings: Settings, reader: RunningReader) -> None:
    number = candidate(settings, version=3)
    (open_releases(settings, NAME).release(number) / "model.bin").write_bytes(b"x")
    roll_out(settings, number, at=now(), **CANARY)
    with traffic(reader) as asking:
        state = looked_until_over(settings)
    assert (state.stage, state.release) == ("returned", number)
    assert {each["release"] for each in asking.answers} == {read_pointer(open_releases(settings, NAME)).current}
    by_model = [each["answered_by"] == "model" for each in asking.of("canary")]
    assert by_model.count(True) >= 0.9 * len(by_model) > 0
    # A busy machine may be late: nothing else keeps one from the model.
    reasons = {each.get("fallback_reason") for each in asking.of("canary") if each["answered_by"] != "model"}
    assert reasons <= {"deadline", "overload"}


def test_clients_that_know_nothing_of_what_a_candidate_needs_get_their_answers_and_it_is_returned(
    settings: Settings, reader: RunningReader
) -> None:
    more = (*REQUEST, RequestField("device", "string"))
    number = candidate(settings, request=more, version=4, warmup=[b'{"household_id":1,"device":"x","candidates":[]}'])
    roll_out(settings, number, at=now(), **CANARY)
    with traffic(reader):
        state = looked_until_over(settings)
        body = {"household_id": 1, "device": "phone", "candidates": [{"product_id": "a"}]}
        assert httpx.post(f"{reader.url}/v1/{NAME}", json=body).status_code in (200, 400)
    assert (state.stage, state.release) == ("returned", number)


def test_a_key_is_in_the_same_arm_whatever_the_protocol(settings: Settings, reader: RunningReader) -> None:
    before = processes_of(reader)
    number = candidate(settings, version=5)
    roll_out(settings, number, at=now(), **CANARY)
    salt = state_of(settings).salt
    with httpx.Client(base_url=reader.url) as client:

        def own(household: int) -> dict[str, Any]:
            body = {"household_id": household, "candidates": [{"product_id": "a"}, {"product_id": "b"}]}
            return dict(client.post(f"/v1/{NAME}", json=body).json())

        def infer(household: int) -> dict[str, Any]:
            inputs = [
                {"name": "household_id", "datatype": "INT64", "shape": [1], "data": [household]},
                {"name": "product_id", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
            ]
            return dict(client.post(f"/v2/models/{NAME}/infer", json={"inputs": inputs}).json()["parameters"])

        def invoke(household: int) -> dict[str, Any]:
            rows = [{"household_id": household, "product_id": product} for product in "ab"]
            return dict(client.post(f"/invocations?model={NAME}", json={"dataframe_records": rows}).json())

        assert eventually(lambda: any(own(key)["release"] == number for key in range(20)))
        for household in range(40):
            in_share = bucket_of(str(household).encode(), salt) < BUCKETS // 2
            expected = ("canary", number) if in_share else ("control", 1)
            for ask in (own, infer, invoke):
                answer = ask(household)
                assert (answer["variant"], answer["release"]) == expected, ask
        apply_manual_action(settings, NAME, "return", "enough")
        assert eventually(lambda: "variant" not in own(0))
    assert eventually(lambda: not processes_of(reader) - before)


def test_a_canary_is_compared_with_the_current_release_in_processes_and_other_keys_stay_on_the_event_loop(
    settings: Settings, reader: RunningReader
) -> None:
    number, began, own = candidate(settings, version=6), now(), processes_of(reader)
    roll_out(settings, number, at=began, stage="canary", share=0.25, slow_us=1e6)
    with traffic(reader) as asking:
        assert eventually(lambda: all(len(asking.of(variant)) > 50 for variant in ("canary", "control", "current")))
        # Two releases, each a template and two processes, of which a busy machine may have one replaced.
        assert eventually(lambda: len(processes_of(reader) - own) >= 2 * (1 + 2))
    compared = ("canary", "control")
    rows: list[dict[str, Any]] = []

    def are_logged() -> bool:
        commit_ready(settings, NAME)
        rows[:] = [row for batch in read_log(settings, NAME, since=began) for row in batch.to_pylist()]
        return all(sum(row["variant"] == variant for row in rows) > 50 for variant in compared)

    assert eventually(are_logged)
    of_variant = {
        variant: [row for row in rows if row["variant"] == variant and row["release"] in (1, number)]
        for variant in VARIANTS
    }
    salt = state_of(settings).salt
    for variant, first, last in (("canary", 0.0, 0.25), ("control", 0.25, 0.5)):
        places = [bucket_of(row["key"].encode(), salt) / BUCKETS for row in of_variant[variant]]
        assert len(places) > 50
        assert all(first <= place < last for place in places)
    scores = {
        row["key"]: row["scores"] for row in rows if row["variant"] in ("", "current") and row["fallback_reason"] == ""
    }
    asked = [row for row in of_variant["control"] if row["fallback_reason"] == "" and row["key"] in scores]
    assert all(row["scores"] == scores[row["key"]] and row["release"] == 1 for row in asked)
    apply_manual_action(settings, NAME, "return", "enough")
    assert eventually(lambda: not processes_of(reader) - own)


def test_a_good_release_goes_from_a_a_to_all_and_a_replica_may_start_in_the_middle(
    settings: Settings, reader: RunningReader
) -> None:
    number = candidate(settings, version=1)
    roll_out(settings, number, rollout=PATIENT, at=now())
    with traffic(reader) as asking:
        state = looked_until(settings, lambda state: (state.stage, state.share) == ("canary", 0.6))
        assert (state.stage, state.share, state.paused) == ("canary", 0.6, False), state.why
        with running_reader(settings, request_log_delay_s=0.2, wait=False) as second:
            second.wait_until_ready()
            with traffic(second) as more:
                state = looked_until_over(settings)
                assert eventually(lambda: all(each["release"] == number for each in more.answers[-20:]))
        assert eventually(lambda: all(each["release"] == number for each in asking.answers[-20:]))
    assert [step.stage for step in state.steps] == ["aa", "shadow", "canary", "canary"]
    assert state.stage == "done"
    assert state.steps[1].shown["same_first_share"] == 1.0
    assert {"aa", "current", "canary", "control"} <= {each.get("variant") for each in asking.answers}
    assert not any("variant" in each for each in asking.answers[-10:])
    answered_by = [each["answered_by"] for each in [*asking.answers, *more.answers]]
    assert answered_by.count("model") >= 0.9 * len(answered_by)  # a busy machine may be late
    assert read_pointer(open_releases(settings, NAME)).current == number
