"""`forecache release build` with a rollout declared: when one begins, what commands show, and how replicas get it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from asked_project.pipelines.payments import payments

from forecache import declare as pipeline
from forecache.base.errors import ConflictError, NotEverywhereError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare import Log, Outcome, Realtime, Rollout, loading
from forecache.declare.project import Project
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.release import release_model, roll_back_release, start_or_make_current
from forecache.plugins.rollouts.command import check_rollouts
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.plugins.rollouts.orchestration import build_rollout, build_rollout_sensor
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.follow_lake import read_local_state
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.realtime.release.rollout_state import RolloutState, read_rollout, rollout_to_json
from resources.settings_resource import SettingsResource

ROLLOUT = Rollout(shares=(0.5,), shadow_share=0.0, requests=100, hours=0.0)
FIRST = replace(payments, log=Log("household_id"), rollout=ROLLOUT)
SECOND = replace(FIRST, deadline_ms=20.0)


def state_of(settings: Settings) -> RolloutState:
    state = read_rollout(open_releases(settings, "payments"))
    assert state is not None
    return state


def current(settings: Settings) -> int | None:
    return read_pointer(open_releases(settings, "payments")).current


@pytest.fixture
def begun(settings: Settings) -> Settings:
    """The rollout of release 2."""
    release_model(settings, FIRST)
    release_model(settings, SECOND)
    return settings


def test_a_second_release_is_rolled_out_and_the_first_answers_meanwhile(settings: Settings) -> None:
    assert release_model(settings, FIRST).details["rollout"] == "It is the first release."
    second = release_model(settings, SECOND)
    assert (second.details["release"], second.details["rollout"], second.skipped) == (2, "begun", False)
    assert current(settings) == 1
    state = state_of(settings)
    assert (state.release, state.current, state.stage, state.share) == (2, 1, "aa", 0.5)
    assert state.plan["deadline_ms"] == 20.0
    again = release_model(settings, SECOND)
    assert (again.details["rollout"], again.skipped) == ("under way", True)
    assert state_of(settings) == state
    assert running_rollouts(settings, ["payments"]) == ["payments"]


@pytest.mark.parametrize(
    ("before", "declared", "why"),
    [
        (FIRST, replace(SECOND, log=None), "its declaration has no log"),
        (replace(FIRST, log=None, rollout=None), SECOND, "keeps no log by the same fields"),
    ],
)
def test_without_a_log_it_answers_at_once_and_says_so(
    settings: Settings, before: Realtime, declared: Realtime, why: str
) -> None:
    release_model(settings, before)
    assert why in release_model(settings, declared).details["rollout"]
    assert current(settings) == 2


def test_a_rollout_that_is_added_is_said_to_be_of_the_next_release_and_what_it_cannot_see(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))

    def said(declared: Realtime) -> str:
        monkeypatch.setattr(pipeline, "load_realtime", lambda *_: declared)
        assert main(["release", "build", "payments"]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "answers now" in said(replace(FIRST, rollout=None))
    assert re.search(r"is current already: model payments 1 \(function [^)]*\)\.$", said(replace(FIRST, rollout=None)))
    added = said(FIRST)
    assert "is current already: model payments 1 (function" in added
    assert "). The next release will be rolled out in steps." in added
    assert added.endswith("no shadow step: scores of noise that are distributed as usual reach all requests.")
    seeing = said(replace(FIRST, rollout=replace(ROLLOUT, outcome=Outcome("orders", "bought"))))
    assert seeing.endswith("The next release will be rolled out in steps.")
    begun = said(replace(SECOND, rollout=replace(ROLLOUT, shadow_share=0.1)))
    assert "is rolled out from now on" in begun
    assert begun.endswith("and not whether answers are worse.")


def test_doctor_warns_of_a_rollout_without_an_outcome(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(rollout: Rollout | None) -> str:
        project = Project({}, {}, realtime={"payments": replace(FIRST, rollout=rollout)})
        monkeypatch.setattr(loading, "read_project", lambda _: project)
        return check_rollouts(settings).state

    states = [found(None), found(ROLLOUT), found(replace(ROLLOUT, outcome=Outcome("orders", "bought")))]
    assert states == ["ok", "warn", "ok"]


def test_it_answers_at_once_where_that_is_asked_for_also_in_the_middle(begun: Settings) -> None:
    assert release_model(begun, SECOND, at_once=True).details["release"] == 2
    assert current(begun) == 2
    found = advance_rollout(begun, "payments")
    assert found is not None
    assert found.state.stage == "done"


def test_a_champion_and_declaration_that_are_those_of_the_current_release_again_end_it(begun: Settings) -> None:
    assert release_model(begun, FIRST).skipped
    assert (state_of(begun).stage, state_of(begun).is_bad) == ("returned", False)
    assert read_pointer(open_releases(begun, "payments")).bad == ()
    assert release_model(begun, SECOND).details["rollout"] == "begun"


def test_a_third_release_takes_the_place_of_the_second(begun: Settings) -> None:
    assert release_model(begun, replace(FIRST, deadline_ms=30.0)).details["rollout"] == "begun"
    assert (state_of(begun).release, current(begun)) == (3, 1)


def test_a_rollback_returns_what_is_rolled_out(begun: Settings) -> None:
    assert roll_back_release(begun, "payments", reason="too slow").bad == (2,)
    assert (state_of(begun).stage, state_of(begun).why, current(begun)) == ("returned", "too slow", 1)
    assert release_model(begun, SECOND).details["rolled_back"] == 2
    assert release_model(begun, SECOND, again=True).details["rollout"] == "begun"
    assert state_of(begun).release == 3


@pytest.mark.parametrize("why_at_once", ["", "It was asked for."], ids=["rolled out", "at once"])
def test_a_candidate_that_is_returned_while_it_is_released_is_not_released(begun: Settings, why_at_once: str) -> None:
    folder = open_releases(begun, "payments")
    seen = read_local_state(folder)
    apply_manual_action(begun, "payments", "return", "complaints")
    before = (state_of(begun), read_pointer(folder))
    with pytest.raises(ConflictError, match="Release 2 of payments was rolled back, or returned, meanwhile"):
        start_or_make_current(begun, folder, SECOND, 2, why_at_once, seen=seen)
    assert (state_of(begun), read_pointer(folder)) == before


def test_replicas_get_the_candidate_and_the_state_and_every_move(begun: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(begun, "payments"), open_releases(replica, "payments")
    push_releases(here, remote)
    pull_releases(there, remote)
    assert read_rollout(there) == state_of(begun)
    assert read_release(there, 2).to_json() == read_release(here, 2).to_json()
    assert read_pointer(there).current == 1
    older = read_local_state(here)
    apply_manual_action(begun, "payments", "finish", "")
    push_releases(here, remote)
    pull_releases(there, remote)
    assert (read_pointer(there).current, state_of(replica).stage) == (2, "done")

    push_releases(here, remote, older)
    pull_releases(there, remote)
    assert state_of(replica).stage == "done"  # an older state takes the place of no newer one


def test_a_push_over_that_of_another_lake_says_so(
    begun: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remote, here = LocalFolder(tmp_path / "remote"), open_releases(begun, "payments")
    push_releases(here, remote)
    assert "another lake" not in caplog.text
    target = ".realtime/payments/ROLLOUT"
    remote.write(target, rollout_to_json(replace(state_of(begun), history="theirs", generation=99, release=7)))
    push_releases(here, remote)
    assert f"The remote's {target} is of another lake, and is replaced." in caplog.text
    found = remote.read(target)
    assert found is not None
    assert found[0] == rollout_to_json(state_of(begun))


def test_a_look_that_could_not_reach_the_remote_is_made_up_for_by_the_next(begun: Settings, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    distributed = load_settings(home=begun.home, store_remote=str(remote))
    remote.write_text("no folder")
    with pytest.raises(NotEverywhereError, match="has changed"):
        apply_manual_action(distributed, "payments", "pause", "")
    remote.unlink()
    advance_rollout(distributed, "payments")
    replica = load_settings(home=tmp_path / "replica")
    pull_releases(open_releases(replica, "payments"), LocalFolder(remote))
    assert state_of(replica).paused


def test_the_commands_show_and_move_it(
    begun: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(begun.home_path))
    assert main(["release", "list", "payments"]) == 0
    shown = capsys.readouterr().out
    assert "rolled out" in shown
    assert "A/A at 0.5 of the keys" in shown
    assert main(["release", "rollouts", "--once"]) == 0
    assert "without requests nothing moves on" in capsys.readouterr().out
    assert main(["release", "pause", "payments", "--reason", "a sale"]) == 0
    assert main(["release", "pause", "payments"]) == 4
    assert main(["release", "resume", "payments"]) == 0
    assert main(["release", "return", "payments", "--reason", "complaints"]) == 0
    assert "returned. complaints" in capsys.readouterr().out
    assert main(["release", "finish", "payments"]) == 3
    assert main(["release", "list", "payments", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(row["release"], row["state"], bool(row["rollout"])) for row in rows] == [
        (2, ["rolled back"], True), (1, ["current"], False),
    ]  # fmt: skip


def test_the_page_of_a_model_has_its_releases_and_the_steps_of_its_rollout(
    begun: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(begun.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    assert main(["release", "return", "payments", "--reason", "complaints"]) == 0
    page = tmp_path / "payments.html"
    assert main(["report", "payments", "--key", "nothing", "--output", str(page)]) == 0
    text = " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())
    assert re.search(r"2 rolled back payments 1 function .* 1 current payments 1 function", text)
    assert re.search(r"Rollout of release 2 .* aa 0\.5 \S+ \S+ 0 0 returned complaints", text)
    assert re.search(r"Answer to a request .*no request log of payments", text)


def test_a_simulation_tells_how_many_requests_a_loss_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rollout", "--rate", "0.3", "--harm", "0.5", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["returned"], row["passed"]) == (1.0, 0.0)
    assert 10_000 < row["median"] <= row["in_90_of_100"] < 150_000


def test_dagster_looks_while_one_is_under_way_and_shows_its_steps(begun: Settings) -> None:
    resource = SettingsResource(home=str(begun.home_path), project=begun.project)
    sensor = build_rollout_sensor(SECOND, "payments_rollout")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"settings": resource})
        assert isinstance(sensor(context), dg.RunRequest)
        made = dg.materialize([build_rollout(SECOND)], instance=instance, resources={"settings": resource})
        [event] = made.get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert (metadata["stage"].value, metadata["release"].value) == ("aa", 2)
        assert "without requests nothing moves on" in str(metadata["steps"].value)
        apply_manual_action(begun, "payments", "return", "")
        context = dg.build_sensor_context(instance=instance, resources={"settings": resource})
        assert isinstance(sensor(context), dg.SkipReason)
