"""What is said of a stream: which word, which checks fail and in which sentence, and when it is started again."""

import time
from dataclasses import replace

import pytest
from watched_streams import cards, write_starts

from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.stream.state import (
    STABLE_S,
    STATE,
    Starts,
    StreamState,
    is_reported,
    is_running,
    lease_name,
    read_starts,
    read_state,
    stream_folder,
    write_state,
)
from forecache.stream.status import (
    CHECKS,
    LayerStatus,
    StreamStatus,
    describe_stream,
    evaluate_checks,
    read_stream_status,
)

NOW = 1_800_000_000.0
WELL = StreamState(
    pid=1, started_at=NOW - 3600, written_at=NOW - 1, engine="arrow", freshness="commit", offsets={"0": 990, "1": 500},
    end_offsets={"0": 1000, "1": 500}, lag_events=10, rows=1490, rows_per_s=100.0, delay_p50_s=0.5, delay_p99_s=1.2,
    committed_version=40, committed_at=NOW - 1,
)  # fmt: skip
NONE = Starts()
LAYER = LayerStatus("customer", 3, applied=40, verified_through=40, looked_at=NOW - 1, verified_at=NOW - 30)


def seen(
    state: StreamState | None = WELL, layer: LayerStatus = LAYER, starts: Starts = NONE, **more: bool
) -> StreamStatus:
    return StreamStatus(cards(), state, more.get("is_running", True), starts, (layer,), NOW, 0.01)


def failed(now: StreamStatus) -> dict[str, str]:
    return {each.check: each.sentence for each in evaluate_checks(now) if not each.passed}


def test_a_stream_that_does_well_passes_every_check_with_its_figures() -> None:
    found = list(evaluate_checks(seen()))
    assert [each.check for each in found] == list(CHECKS)
    assert all(each.passed for each in found)
    sentences = {each.check: each.sentence for each in found}
    assert sentences["lag"] == "10 events of cards wait, 0.1 s of work at 100 rows/s; 60 s may be."
    assert sentences["verified"] == "Verified: customer through version 40."


@pytest.mark.parametrize(
    ("changed", "checks"),
    [
        ({"lag_events": 7000}, {"lag"}),
        ({"lag_events": 5, "rows_per_s": 0.0, "committed_at": NOW - 61}, {"lag", "throughput", "last_commit"}),
        ({"lag_events": 5, "rows_per_s": 0.0, "committed_at": NOW - 59}, set()),
        ({"lag_events": 0, "rows_per_s": 0.0, "committed_at": NOW - 9999}, set()),
        ({"lag_events": 5, "rows_per_s": 0.0, "committed_at": 0.0, "started_at": NOW - 9}, set()),
        ({"delay_p99_s": 60.1}, {"delay"}),
        ({"delay_p50_s": None, "delay_p99_s": None}, set()),
        ({"bad": 15}, set()),
        ({"bad": 16}, {"bad_messages"}),
    ],
)
def test_a_figure_beyond_its_limit_fails_its_check_alone(changed: dict[str, float], checks: set[str]) -> None:
    assert set(failed(seen(replace(WELL, **changed)))) == checks  # type: ignore[arg-type]  # fields of different types


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (replace(LAYER, verified_through=39, verified_at=NOW - 999, unverified_since=NOW - 299), ""),
        (replace(LAYER, verified_through=39, unverified_since=NOW - 301), "not found equal to the table since"),
        (replace(LAYER, verified_through=-1, verified_at=0.0, unverified_since=NOW - 9), ""),
        (replace(LAYER, verified_through=-1, verified_at=0.0, unverified_since=NOW - 301), "equal to the table yet"),
        (LayerStatus("customer"), ""),
        (replace(LAYER, failure="The disk is full."), "the tailer of customer cannot go on: The disk is full."),
    ],
)
def test_a_live_layer_has_to_be_verified_within_minutes(layer: LayerStatus, says: str) -> None:
    found = failed(seen(layer=layer))
    assert (set(found), says in found.get("verified", "")) == ({"verified"} if says else set(), True)


@pytest.mark.parametrize(
    ("layer", "within_s"),
    [
        (replace(LAYER, comparison_s=4.0, compared_every_s=80.0), 300),
        (replace(LAYER, comparison_s=40.0, compared_every_s=800.0), 1680),
        (replace(LAYER, comparison_s=0.1, compared_every_s=900.0), 1800.2),
        (replace(LAYER, comparing_since=NOW - 500, compared_every_s=60.0), 1120),
        (replace(LAYER, comparison_s=40.0, comparing_since=NOW - 9000, compared_every_s=800.0), 1680),
        (replace(LAYER, comparison_s=1.0, comparing_since=NOW - 900, compares_all=True, compared_every_s=60.0), 1920),
        (replace(LAYER, comparison_s=9000.0, compared_every_s=180_000.0), 86_400),
    ],
)
def test_a_layer_has_the_time_that_two_comparisons_take_and_at_most_a_day(layer: LayerStatus, within_s: float) -> None:
    assert layer.verification_limit_s(NOW) == pytest.approx(within_s)
    assert layer.verification_deadline(NOW) is None
    late = replace(layer, unverified_since=NOW - within_s - 1)
    assert f"; {within_s:,.0f} s may be" in failed(seen(layer=late))["verified"]
    assert failed(seen(layer=replace(layer, unverified_since=NOW - within_s + 1))) == {}


def test_a_live_layer_that_applied_nothing_fails_after_some_minutes() -> None:
    old = replace(WELL, committed_at=NOW - 301, started_at=NOW - 301, lag_events=0)
    assert "has applied nothing" in failed(seen(old, LayerStatus("customer")))["verified"]


def test_a_stream_that_does_not_run_says_since_when_and_why() -> None:
    died = seen(replace(WELL, last_error="The lake does not answer."), is_running=False)
    assert died.status == "died"
    found = failed(died)
    assert set(found) == {"runs", "lag", "throughput", "delay", "last_commit"}
    assert found["runs"] == "cards died after 2027-01-15 07:59:59 UTC. Its last error: The lake does not answer."
    stopped = seen(replace(WELL, stopped_at=NOW - 5), is_running=False)
    assert stopped.status == "stopped"
    assert failed(stopped)["runs"] == "cards was stopped at 2027-01-15 07:59:55 UTC."
    never = seen(None, is_running=False)
    assert (never.status, failed(never)) == ("never ran", {"runs": "cards has never run."})


def test_a_stream_that_dies_again_and_again_fails_until_it_has_lasted() -> None:
    dying = Starts(total=9, in_a_row=3, last_at=NOW - 30)
    assert "after 3 starts in a row that failed" in failed(seen(starts=dying))["runs"]
    assert failed(seen(starts=dying.reset_if_stable(replace(WELL, written_at=NOW - 30 + STABLE_S)))) == {}


def test_pauses_between_starts_grow_to_half_an_hour() -> None:
    starts, pauses = Starts(), []
    for _ in range(12):
        pauses.append(starts.pause_s)
        starts = starts.with_start(NOW)
    assert pauses[:6] == [0, 10, 20, 40, 80, 160]
    assert pauses[-1] == 1800
    assert starts.reset_if_stable(replace(WELL, written_at=NOW + 599)).in_a_row == 12
    assert starts.reset_if_stable(replace(WELL, written_at=NOW + 600)) == Starts(total=12, in_a_row=0, last_at=NOW)


def test_what_a_stream_says_is_read_as_it_was_written_and_damage_is_nothing(settings: Settings) -> None:
    assert read_state(settings, "cards") is None
    write_state(settings.home_path, "cards", WELL)
    assert read_state(settings, "cards") == WELL
    for content in ("", "[]", "{", '{"rows": 1, "of_a_later_version": 2}'):
        (stream_folder(settings.home_path, "cards") / STATE).write_text(content)
        found = read_state(settings, "cards")
        assert (found.rows if found else None) == (1 if "rows" in content else None)
    write_starts(settings, "cards", Starts(3, 2, NOW))
    assert read_starts(settings, "cards") == Starts(3, 2, NOW)
    (stream_folder(settings.home_path, "cards") / "STARTS").write_text("{")
    assert read_starts(settings, "cards") == Starts()


def test_a_stream_runs_while_its_lock_is_held_or_its_state_is_young(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, now = settings.home_path, time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert not is_running(home, "cards")
    with lock(home / "locks" / lease_name("cards")):
        assert is_running(home, "cards")
        assert read_stream_status(settings, cards()).status == "runs"
    assert not is_running(home, "cards")
    # On another machine, with the same home folder: no lock is to be seen.
    write_state(home, "cards", replace(WELL, written_at=now - 10))
    assert read_stream_status(settings, cards()).status == "runs"
    write_state(home, "cards", replace(WELL, written_at=now - 20))
    assert read_stream_status(settings, cards()).status == "died"
    write_state(home, "cards", replace(WELL, written_at=now, stopped_at=now))
    assert read_stream_status(settings, cards()).status == "stopped"


def test_a_machine_that_stood_still_while_it_watched_a_stream_looks_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(settings.home_path, "cards", replace(WELL, alive_at=NOW))
    began, waits = time.monotonic(), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            write_state(settings.home_path, "cards", replace(WELL, alive_at=NOW + 5))

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: began + 100 * len(waits))
    assert is_reported(settings, "cards")
    assert not is_reported(settings, "cards")
    assert sum(waits) < 15


def test_the_share_of_bad_messages_that_may_be_is_that_of_the_settings(settings: Settings) -> None:
    write_state(settings.home_path, "cards", StreamState(pid=1, written_at=time.time(), rows=97, bad=3))
    told = {
        share: [
            text for text in describe_stream(read_stream_status(changed, cards()))["not_well"] if "were bad" in text
        ]
        for share in (0.02, 0.04)
        for changed in [settings.model_copy(update={"stream_most_bad": share})]
    }
    assert told == {0.02: ["3.00% of the messages of cards since it started were bad (3); 2.00% may be."], 0.04: []}


def test_what_is_shown_of_a_stream_has_its_figures_and_no_paths(settings: Settings) -> None:
    shown = describe_stream(seen())
    assert (shown["state"], shown["lag_events"], shown["committed_s_ago"]) == ("runs", 10, 1.0)
    assert shown["layers"] == [
        {"store": "customer", "rows": 3, "applied": 40, "verified_through": 40, "verified_s_ago": 30.0}
    ]
    assert shown["not_well"] == []
    assert str(settings.home_path) not in str(shown)
