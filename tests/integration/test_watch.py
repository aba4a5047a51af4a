"""What `forecache alerts` finds in the lake, the stores and the schedules."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from alert_receivers import Receiver, receiver
from reader_support import StalePolicy, churn_rows, write_version, yesterday

from forecache.base.alert import LASTING, Alert, Subject
from forecache.base.settings import Settings, load_settings
from forecache.declare import Log, load_pipeline, load_realtime
from forecache.declare.project import Project
from forecache.kit.delta.tables import append_rows
from forecache.models.registry.promotions import Promotion, last_promotion, record_promotion
from forecache.plugins.alerts import collect_alerts as looking
from forecache.plugins.alerts.collect_alerts import (
    collect_and_notify,
    gate_alerts,
    lost_row_alerts,
    stale_version_alerts,
    stuck_log_alerts,
    unasked_model_alerts,
    waiting_date_alerts,
)
from forecache.plugins.alerts.journal import CursorMove
from forecache.plugins.alerts.notify import notify
from forecache.realtime.log.record import schema
from forecache.realtime.log.spool_files import CommitterState, write_state
from forecache.serve.store import open_store
from forecache.serve.store.remote_store import RemoteStore, list_served_manifests

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def decision(verdict: str, version: int, *, days_ago: float = 0.0, action: str = "gate") -> Promotion:
    return Promotion(
        recorded_at=datetime.now(timezone.utc) - timedelta(days=days_ago),
        pipeline="churn",
        action=action,
        actor="job",
        from_version=3,
        to_version=3,
        candidate=version,
        verdict=verdict,
        reason=f"churn {version} {verdict}: auc 0.61 is below 0.7",
        training_table="churn_training",
        training_version=1,
    )


def test_a_refusal_of_the_gate_is_told_for_each_decision_of_the_last_days(settings: Settings) -> None:
    assert list(gate_alerts(settings)) == []
    for entry in (
        decision("failed", 4, days_ago=8),
        decision("failed", 5),
        decision("passed", 6),
        decision("awaiting_approval", 7),
        decision("failed", 5),
        decision("failed", 8, action="reject"),
    ):
        record_promotion(settings, entry, after=last_promotion(settings, entry.pipeline))
    found = sorted(gate_alerts(settings), key=lambda alert: alert.occasion)
    assert [(alert.kind, alert.severity, alert.occasion) for alert in found] == [
        ("gate_refused", "warning", "5, decision 0"),
        ("gate_refused", "warning", "5, decision 3"),
        ("approval_awaited", "info", "7, decision 2"),
    ]
    assert found[0].summary == (
        "The gate refused version 5 of churn: churn 5 failed: auc 0.61 is below 0.7. Version 3 stays the champion."
    )
    assert found[0].details["version"] == 5


def test_a_served_version_beyond_its_age_is_stale_unless_it_is_the_last_of_its_data(settings: Settings) -> None:
    def stale() -> list[Alert]:
        return list(stale_version_alerts(list_served_manifests(settings, ["churn", "never_published"])))

    write_version(settings.store_path, "churn", churn_rows(3), as_of="2026-01-01")
    (found,) = stale()
    assert (found.kind, found.name, found.severity) == ("version_stale", "churn", "warning")
    assert found.summary.startswith("Version 1 of churn, as of 2026-01-01, is ")
    assert found.at > datetime(2026, 1, 2, tzinfo=timezone.utc)
    ended = {"as_of": "2026-01-01", "source_end": "2026-01-01"}
    write_version(settings.store_path, "churn", churn_rows(3), **ended)
    assert stale() == []
    write_version(settings.store_path, "churn", churn_rows(3), policy=StalePolicy(36.0, "refuse"), **ended)
    assert [each.severity for each in stale()] == ["critical"], "requests fail"
    write_version(settings.store_path, "churn", churn_rows(3), as_of=yesterday())
    assert stale() == []


def test_a_machine_without_the_store_sees_in_the_remote_that_a_version_is_stale(
    settings: Settings, tmp_path: Path
) -> None:
    write_version(settings.store_path, "churn", churn_rows(3), as_of="2026-01-01")
    shared = open_store(settings.model_copy(update={"store_remote": str(tmp_path / "remote")}), "churn")
    assert isinstance(shared, RemoteStore)
    shared.sync()
    elsewhere = load_settings(home=tmp_path / "elsewhere", store_remote=str(tmp_path / "remote"))
    found = [list_served_manifests(each, ["churn", "spend"]) for each in (settings, elsewhere)]
    assert found[0] == found[1]
    assert [alert.name for alert in stale_version_alerts(found[1])] == ["churn"]


def test_a_due_as_of_date_that_a_source_has_not_delivered_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="shop_project")
    orders = load_pipeline(settings, "orders")
    waits = replace(orders, sources=tuple(replace(source, missing="wait") for source in orders.all_sources))
    assert list(waiting_date_alerts(settings, Project({"orders": orders}, {}))) == []
    (found,) = waiting_date_alerts(settings, Project({"orders": waits}, {}))
    assert (found.kind, found.name, found.occasion) == ("night_waiting", "orders", "2026-01-06")
    assert found.summary == "orders waits: orders has not delivered 2026-01-06."
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "2026-01-06.csv").write_text("customer,day,amount\n")
    assert list(waiting_date_alerts(settings, Project({"orders": waits}, {}))) == []


def test_lost_rows_of_a_log_are_told_as_they_grow(tmp_path: Path, there: Receiver) -> None:
    settings = load_settings(home=tmp_path / "home", project="x", alert_webhook=there.url)
    folder = settings.request_log_path / "search"
    folder.mkdir(parents=True)

    def told_of(damaged: int, expired: int) -> dict[str, int]:
        write_state(folder, CommitterState(lost_damaged=damaged, lost_expired=expired))
        cursors: dict[str, CursorMove] = {}
        alerts = list(lost_row_alerts(settings, cursors))
        notify(settings, alerts, cursors=cursors)
        return dict(alerts[0].details) if alerts else {}

    assert told_of(0, 0) == {}
    assert told_of(2, 5) == {"damaged": 2, "expired": 5}
    assert told_of(2, 5) == {}
    assert told_of(2, 8) == {"expired": 3}
    assert told_of(0, 1) == {"expired": 1}, "a spool that was made anew counts from 0"
    summaries = [each.content["alerts"][0]["summary"] for each in there.posted]
    assert summaries[0] == "The request log of search lost 7 answers: 2 by damaged, 5 by expired."
    assert len(summaries) == 3


def test_a_log_that_cannot_be_committed_is_told_after_five_minutes(settings: Settings) -> None:
    folder = settings.request_log_path / "search"
    folder.mkdir(parents=True)
    for minutes, expected in ((4, 0), (6, 1)):
        failing = CommitterState(failing_since=time.time() - 60 * minutes, failure="The disk is full.")
        write_state(folder, failing)
        well: list[Subject] = []
        found = list(stuck_log_alerts(settings, well))
        assert (len(found), len(well)) == (expected, 1 - expected)
    assert found[0].summary.endswith("UTC: The disk is full.")
    assert found[0].kind in LASTING


def test_a_model_that_a_reader_does_not_ask_is_told_once_and_once_more_when_it_is_asked_again(
    tmp_path: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="asked_project", alert_webhook=there.url)
    declared = replace(load_realtime(settings, "payments"), log=Log("household_id"))
    monkeypatch.setattr(looking, "read_project", lambda _: Project({}, {}, realtime={"payments": declared}))

    def answers(seconds_ago: list[int], *, replica: str, why: str = "refused", variant: str = "current") -> None:
        now = datetime.now(timezone.utc)
        rows = [
            {"request_id": f"{replica} {ago}", "arrived_at": now - timedelta(seconds=ago), "day": now.date(),
             "variant": variant, "fallback_reason": why, "answered_by": "precomputed" if why else "model",
             "replica": replica}
            for ago in seconds_ago
        ]  # fmt: skip
        append_rows(
            settings, "request_log_payments", pa.Table.from_pylist(rows, schema=schema()), partition_by=("day",)
        )

    def found() -> list[Alert]:
        return list(unasked_model_alerts(settings, Project({}, {}, realtime={"payments": declared})))

    assert found() == []
    answers([3000, 2900, 2800, 2700, 2600, 2500], replica="old:80#0")
    answers([200, 150, 100, 90, 80, 70], replica="late:80#0", why="deadline")
    answers([200, 150, 100, 90, 80, 70], replica="canary:80#0", variant="canary")
    answers([200, 199, 198, 197, 196, 195], replica="brief:80#0")
    assert found() == []
    answers([250], replica="a:80#1", why="")
    answers([220, 180, 140, 100, 60], replica="a:80#1")
    (alert,) = found()
    assert (alert.kind, alert.severity, alert.name) == ("model_unasked", "critical", "payments")
    assert "by a:80#1: the last 5 requests were answered by precomputed" in alert.summary
    for _ in range(2):
        collect_and_notify(settings)
    answers([1], replica="a:80#1", why="")
    collect_and_notify(settings)
    assert [each.content["groups"][0]["state"] for each in there.posted] == ["firing", "resolved"]


def test_a_look_that_fails_ends_no_alert_of_its_kind(
    tmp_path: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="shop_project", alert_webhook=there.url)
    stale = Alert("version_stale", "orders", "warning", "Old.", {}, datetime.now(timezone.utc))
    monkeypatch.setattr(looking, "stale_version_alerts", lambda *_: iter([stale]))
    collect_and_notify(settings)

    def unreadable(*_: object) -> Iterator[Alert]:
        raise OSError("The disk does not answer.")

    monkeypatch.setattr(looking, "stale_version_alerts", unreadable)
    told, problems = collect_and_notify(settings)
    assert problems == ("The disk does not answer.",)
    assert told[0].notices == 0
    monkeypatch.setattr(looking, "stale_version_alerts", lambda *_: iter(()))
    assert collect_and_notify(settings)[0][0].notices == 1
    assert [each.content["groups"][0]["state"] for each in there.posted] == ["firing", "resolved"]


def test_a_spool_that_cannot_be_read_keeps_nothing_else_from_being_told(
    tmp_path: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="shop_project", alert_webhook=there.url)
    settings.request_log_path.parent.mkdir(parents=True)
    settings.request_log_path.write_text("not a folder")
    told, problems = collect_and_notify(settings, [Alert("run_failed", "nightly", "critical", "No.", {"nights": ""})])
    assert told[0].notices == 1
    assert all("Not a directory" in problem for problem in problems)
    assert problems


def test_a_project_that_cannot_be_imported_is_a_problem_and_holds_up_nothing(tmp_path: Path, there: Receiver) -> None:
    settings = load_settings(home=tmp_path / "home", project="no_such_project", alert_webhook=there.url)
    told, problems = collect_and_notify(settings, [Alert("run_failed", "nightly", "critical", "No.", {"nights": ""})])
    assert told[0].notices == 1
    assert "no_such_project" in problems[0]
