"""Which release answers a request while one is rolled out, and what the candidate scores after it was answered."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecache.kit.http.problems import BAD_REQUEST, Problem
from forecache.plugins.rollouts.traffic_split import ShadowScorer, TrafficSplit
from forecache.realtime.log.answer_log import BUCKETS, bucket_of
from forecache.realtime.release.rollout_state import RolloutState, RolloutStep
from forecache.realtime.request.request_answer import ParsedRequest

KEYS = [str(number).encode() for number in range(5_000)]


class Sampler:
    def key_of(self, request: ParsedRequest) -> bytes:
        return request.body


def state(share: float, stage: Any = "canary", release: int = 2) -> RolloutState:
    return RolloutState(
        "search", release, 1, stage, share, "2026-03-01", {}, steps=(RolloutStep(stage, share, "2026-03-01"),)
    )


def variant(name: str, request: tuple[str, ...] = ("a",)) -> Any:
    release = SimpleNamespace(request=request, candidates=None, on_unknown="refuse", on_nan="refuse")
    return SimpleNamespace(name=name, loaded=SimpleNamespace(release=release))


def split(
    share: float, *, other: Any = None, shadow: Any = None, stage: Any = "canary", release: int = 2
) -> TrafficSplit:
    found = other or variant("canary")
    return TrafficSplit(
        state(share, stage, release), Sampler(), current=variant("current"), other=found, stand_in=variant("stand-in"),
        shadow=shadow,
    )  # type: ignore[arg-type]  # fmt: skip


def parsed(key: bytes) -> ParsedRequest:
    return ParsedRequest(1, {"a": np.zeros(1)}, (), key)


def variants(of: TrafficSplit) -> list[str]:
    return [of.assign_release(lambda served, key=key: parsed(key))[0].name for key in KEYS]  # type: ignore[misc]


def test_a_growing_share_keeps_the_keys_that_it_has() -> None:
    before: set[int] = set()
    for share in (0.01, 0.05, 0.2, 0.5):
        now = {place for place, name in enumerate(variants(split(share))) if name == "canary"}
        assert before <= now
        assert len(now) / len(KEYS) == pytest.approx(share, abs=0.02)
        before = now


def test_another_release_has_other_keys_first() -> None:
    one, other = (np.array(variants(split(0.5, release=release))) == "canary" for release in (2, 3))
    assert (one & other).mean() == pytest.approx(0.25, abs=0.03)


def test_the_split_is_that_of_the_controller() -> None:
    salt, below = state(0.2).salt, int(0.2 * BUCKETS)
    expected = ["canary" if bucket_of(key, salt) < below else "current" for key in KEYS]
    assert variants(split(0.2)) == expected


@pytest.mark.parametrize(("share", "of_control"), [(0.05, 0.05), (0.2, 0.2), (0.5, 0.5), (0.6, 0.4)])
def test_the_control_has_as_many_keys_as_the_candidate_and_none_of_its_own(share: float, of_control: float) -> None:
    with_control = TrafficSplit(
        state(share), Sampler(), current=variant("current"), other=variant("canary"), stand_in=variant("stand-in"),
        control=variant("control"),
    )  # type: ignore[arg-type]  # fmt: skip
    found, before = np.array(variants(with_control)), np.array(variants(split(share)))
    assert ((found == "canary") == (before == "canary")).all()
    assert (found == "control").mean() == pytest.approx(of_control, abs=0.02)
    assert (share < 0.5) == ("current" in found)


def refusing(*names: str) -> Any:
    def parse(served: Any) -> ParsedRequest:
        if served.name in names:
            raise Problem(BAD_REQUEST, f"{served.name} does not take it")
        return parsed(KEYS[0])

    return parse


def test_a_request_that_the_candidate_does_not_take_is_answered_in_its_place() -> None:
    of = split(0.999999, other=variant("canary", request=("a", "b")))
    assert of.assign_release(refusing("canary"))[0].name == "stand-in"
    assert of.assign_release(refusing("current"))[0].name == "canary"
    with pytest.raises(Problem, match="current does not take it"):
        of.assign_release(refusing("current", "canary"))
    with pytest.raises(Problem, match="current does not take it"):
        split(1e-9, other=variant("canary", request=("a", "b"))).assign_release(refusing("current"))


def test_requests_of_the_same_fields_are_parsed_once() -> None:
    calls: list[str] = []

    def parse(served: Any) -> ParsedRequest:
        calls.append(served.name)
        return parsed(KEYS[0])

    split(0.999999).assign_release(parse)
    assert calls == ["current"]


class Log:
    def __init__(self) -> None:
        self.rows: list[tuple[ParsedRequest, Any]] = []

    def add(self, request: ParsedRequest, answered: Any, clock: Any) -> None:
        self.rows.append((request, answered))


class Engine:
    async def answer(self, served: Any, request: ParsedRequest, clock: Any, times: Any) -> Any:
        await asyncio.sleep(0)
        return SimpleNamespace(fallback_reason="", elapsed=0)


def test_a_shadow_scores_after_the_answer_and_only_where_nothing_waits() -> None:
    candidate, backlog = variant("shadow"), SimpleNamespace(waiting=0)
    candidate.log = Log()
    shadow = ShadowScorer(candidate, Engine(), backlog)  # type: ignore[arg-type]
    of, clock = split(0.999999, other=candidate, shadow=shadow, stage="shadow"), SimpleNamespace(deadline_ms=50.0)

    async def ask() -> None:
        served, request = of.assign_release(refusing())
        assert served.name == "current"
        request.request_id = "r1"
        of.offer_to_shadow(request, refusing(), clock)  # type: ignore[arg-type]
        assert candidate.log.rows == []
        backlog.waiting = 1
        of.offer_to_shadow(request, refusing(), clock)  # type: ignore[arg-type]
        backlog.waiting = 0
        of.offer_to_shadow(request, refusing("shadow"), clock)  # type: ignore[arg-type]
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(ask())
    assert shadow.skipped == 1
    found = sorted((request.request_id, answered.fallback_reason) for request, answered in candidate.log.rows)
    assert found == [("r1", ""), ("r1", "refused")]
