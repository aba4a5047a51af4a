"""Alerts to a real HTTP server: told once, resolved once, repeated, held back, tried again, and never a secret."""

import base64
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import Receiver, receiver

from forecache.base.alert import Alert, Subject
from forecache.base.settings import Settings, load_settings
from forecache.plugins.alerts.journal import AlertJournal, CursorMove, change_journal, read_journal, read_noted_alerts
from forecache.plugins.alerts.notify import NotifyResult, notify

AT = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
STALE = Alert("version_stale", "churn", "warning", "Version 3 of churn is 30 hours old.", {"version": 3}, AT)
REFUSED = Alert("gate_refused", "churn", "warning", "churn 4 failed: auc 0.61 is below 0.7.", {}, AT, "4")


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def alert_settings(tmp_path: Path, there: Receiver, **more: Any) -> Settings:
    return load_settings(home=tmp_path / "home", alert_webhook=f"{there.url}/hook", **more)


def pass_time(settings: Settings, seconds: float) -> None:
    """Let everything that the journal knows be older."""

    def move(journal: AlertJournal) -> None:
        for each in journal.alerts.values():
            each.seen_at -= seconds
            each.notified = {name: (count, last - seconds) for name, (count, last) in each.notified.items()}
        for outbox in journal.outboxes.values():
            outbox.recent = [at - seconds for at in outbox.recent]
            outbox.made_at, outbox.next_at = outbox.made_at - seconds, outbox.next_at - seconds

    change_journal(settings, move)


def told(there: Receiver) -> list[list[tuple[str, str, int]]]:
    """Of each message, the groups' state, name and count."""
    return [
        [(group["state"], group["name"], group["count"]) for group in each.content["groups"]] for each in there.posted
    ]


def test_an_alert_is_told_once_and_its_end_once(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there, alert_webhook_token="secret-token")
    assert notify(settings, [STALE, REFUSED]) == [NotifyResult("webhook", 1, 2)]
    assert notify(settings, [STALE, REFUSED]) == [NotifyResult("webhook")]
    assert read_noted_alerts(settings) == [STALE]
    assert notify(settings, complete=("version_stale",)) == [NotifyResult("webhook", 1, 1)]
    assert notify(settings, well=[STALE.subject]) == [NotifyResult("webhook")]
    assert told(there) == [[("firing", "churn", 1), ("firing", "churn", 1)], [("resolved", "churn", 1)]]
    first, last = there.posted
    assert first.path == "/hook"
    assert first.headers["Authorization"] == "Bearer secret-token"
    assert first.headers["Idempotency-Key"] == first.content["id"] != last.content["id"]
    (stale,) = [alert for alert in first.content["alerts"] if alert["kind"] == "version_stale"]
    (over,) = last.content["alerts"]
    assert (stale["details"], stale["at"], stale["ended_at"]) == ({"version": 3}, AT.isoformat(), None)
    assert over["id"] == stale["id"]
    assert datetime.fromisoformat(over["ended_at"]) > AT


def test_what_was_over_and_is_wrong_again_is_a_new_alert(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    for _ in range(2):
        notify(settings, [STALE])
        notify(settings, well=[STALE.subject])
    ids = [each.content["alerts"][0]["id"] for each in there.posted]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_an_alert_that_lasts_is_repeated_and_one_about_a_moment_is_not(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there, alert_repeat_h=2)
    notify(settings, [STALE, REFUSED])
    pass_time(settings, 7000)
    assert notify(settings, [STALE, REFUSED]) == [NotifyResult("webhook")]
    pass_time(settings, 300)
    assert notify(settings, [STALE, REFUSED]) == [NotifyResult("webhook", 1, 1)]
    (group,) = there.posted[-1].content["groups"]
    assert group["title"] == "Still: version is stale: churn"
    assert there.posted[-1].content["alerts"][0]["repeat"] == 1
    never = settings.model_copy(update={"alert_repeat_h": 0.0})
    pass_time(settings, 10**6)
    assert notify(never, [STALE]) == [NotifyResult("webhook")]


def test_what_one_machine_has_is_over_when_no_machine_has_seen_it_for_a_day(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    stuck = Alert("log_stuck", "fraud", "warning", "The request log of fraud cannot be committed.", {}, AT, "pod-1")
    notify(settings, [stuck, STALE])
    pass_time(settings, 86_000)
    notify(settings)
    assert read_noted_alerts(settings) == [stuck, STALE]
    pass_time(settings, 500)
    notify(settings)
    assert read_noted_alerts(settings) == [STALE]
    assert told(there)[-1] == [("resolved", "fraud", 1)]


def test_500_failed_partitions_are_one_message_of_one_group(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    days = [(AT + timedelta(days=number)).date().isoformat() for number in range(500)]
    notify(settings, [Alert("check_failed", "raw.ok", "critical", f"{day} has 0 rows.", {}, AT, day) for day in days])
    (message,) = there.posted
    (group,) = message.content["groups"]
    assert (group["count"], message.content["total"], len(message.content["alerts"])) == (500, 500, 200)
    assert group["text"] == f"500, from {days[0]} to {days[-1]}. The first: {days[0]} has 0 rows."


def test_a_flood_waits_for_the_next_hour_and_goes_as_one_message(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there, alert_messages_per_hour=3)
    for number in range(10):
        last = notify(settings, [Alert("gate_refused", "churn", "warning", "No.", {}, AT, str(number))])
    assert (len(there.posted), last) == (3, [NotifyResult("webhook", waiting=7)])
    pass_time(settings, 3601)
    assert notify(settings) == [NotifyResult("webhook", 1, 7)]
    assert told(there)[-1] == [("firing", "churn", 7)]


def test_a_sink_that_is_down_is_tried_again_later_and_gets_the_same_message(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    there.code = 503
    (first,) = notify(settings, [STALE])
    assert (first.messages, first.waiting, first.reason) == (0, 1, "127.0.0.1 answered 503: ok.")
    there.code = 200
    assert notify(settings, [STALE])[0].messages == 0, "it has to be left alone for 30 s"
    pass_time(settings, 31)
    assert notify(settings, [STALE, REFUSED])[0].notices == 1 + 1
    assert [each.content["id"] for each in there.posted[:2]] == [there.posted[0].content["id"]] * 2
    assert told(there)[1:] == [[("firing", "churn", 1)]] * 2


def test_the_pause_doubles_up_to_an_hour_and_follows_retry_after(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    there.code = 500
    for number, wanted in enumerate([30, 60, 120, 240, 480, 960, 1920, 3600, 3600]):
        if number == 8:
            there.answer_headers = {"Retry-After": "86400"}
        before = time.time()
        notify(settings, [STALE])
        next_at = read_journal(settings).outbox("webhook").next_at
        after = time.time()
        assert next_at - after - 1 <= wanted <= next_at - before + 1
        pass_time(settings, next_at - after + 1)
    assert len(there.posted) == 9


def test_a_refused_message_does_not_hold_up_the_next(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    there.code, there.body = 400, "invalid_payload"
    assert notify(settings, [STALE])[0].reason == "127.0.0.1 answered 400: invalid_payload."
    there.code = 200
    assert notify(settings, [STALE, REFUSED]) == [NotifyResult("webhook", 1, 1)]


def test_a_redirect_is_not_followed(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    there.code, there.answer_headers = 302, {"Location": f"{there.url}/elsewhere"}
    assert "answered 302" in notify(settings, [STALE])[0].reason
    assert [each.path for each in there.posted] == ["/hook"]


def test_no_secret_is_logged_or_returned(tmp_path: Path, there: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    slack = f"{there.url}/services/T000/B000/XXXX-secret"
    settings = load_settings(
        home=tmp_path / "home",
        alert_slack=slack,
        alert_webhook=f"{there.url}/hook?key=query-secret",
        alert_webhook_token="bearer-secret",
        alert_alertmanager=there.url.replace("//", "//user:basic-secret@"),
    )
    there.code, there.before = 500, lambda posted: setattr(there, "body", f"no {posted.path} {posted.headers}")
    found = notify(settings, [STALE])
    own, slack_said, manager = there.posted
    assert own.path == "/hook?key=query-secret"
    assert own.headers["Authorization"] == "Bearer bearer-secret"
    assert slack_said.path == "/services/T000/B000/XXXX-secret"
    assert base64.b64decode(manager.headers["Authorization"].removeprefix("Basic ")) == b"user:basic-secret"
    assert len(found) == 3
    assert all(each.reason for each in found)
    everything = f"{found} {caplog.text} {settings!r}"
    assert "-secret" not in everything
    assert manager.headers["Authorization"].partition(" ")[2] not in everything
    files = [path for path in settings.home_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"-secret" in path.read_bytes()] == []
    assert "alerts.json" in {path.name for path in files}


def test_text_that_cannot_be_encoded_holds_up_nothing(tmp_path: Path, there: Receiver) -> None:
    name = os.fsdecode(b"2026-01-0\xff.csv")
    found = notify(
        alert_settings(tmp_path, there),
        [Alert("run_failed", "nightly", "critical", f"{name} is empty.", {"file": name}, AT), STALE],
    )
    assert (found[0].notices, found[0].reason) == (2, "")
    assert there.posted[0].content["alerts"][0]["summary"] == "2026-01-0?.csv is empty."


def test_a_sink_that_raises_waits_and_the_log_says_where_without_what_may_be_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings(home=tmp_path / "home", alert_slack="http://[url-secret/hook")
    (found,) = notify(settings, [STALE])
    assert (found.waiting, found.reason) == (1, "ValueError while the message was sent.")
    assert "post_json" in caplog.text
    assert "url-secret" not in caplog.text


def test_an_unusable_home_or_setting_fails_nothing(tmp_path: Path, there: Receiver) -> None:
    (tmp_path / "home").write_text("not a folder")
    (found,) = notify(alert_settings(tmp_path, there), [STALE])
    assert "Not a directory" in found.reason
    (found,) = notify(load_settings(home=tmp_path / "other", alert_slack="hooks.slack.com/x"), [STALE])
    assert found.reason.startswith("FORECACHE_ALERT_SLACK is no URL.")


JOB = """
import os, signal, sys
from datetime import datetime, timezone
from forecache.base.alert import Alert
from forecache.plugins.alerts import notify as telling
from forecache.base.settings import load_settings

kill_at = sys.argv[3]
if kill_at != "never":
    telling.alert_step.on_step = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == kill_at else None
settings = load_settings(home=sys.argv[1], alert_webhook=sys.argv[2])
at = datetime(2026, 1, 2, tzinfo=timezone.utc)
alerts = [Alert("gate_refused", "churn", "warning", "No.", {}, at, str(number)) for number in range(int(sys.argv[4]))]
for number in range(int(sys.argv[4])):
    telling.notify(settings, alerts[: number + 1])
"""


def run_job(tmp_path: Path, there: Receiver, kill_at: str, count: int = 1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "home"), f"{there.url}/hook", kill_at, str(count)]
    )


@pytest.mark.parametrize(
    ("kill_at", "expected"), [("noted", 1), ("made", 1), ("sent", 2), ("recorded", 1)], ids=lambda value: str(value)
)
def test_a_kill_at_any_step_loses_nothing_and_repeats_with_the_same_id(
    tmp_path: Path, there: Receiver, kill_at: str, expected: int
) -> None:
    assert run_job(tmp_path, there, kill_at).wait(60) == -signal.SIGKILL
    assert run_job(tmp_path, there, "never").wait(60) == 0
    assert len(there.posted) == expected
    assert len({each.content["id"] for each in there.posted}) == 1
    assert there.posted[0].content["alerts"] == there.posted[-1].content["alerts"]


def test_processes_at_once_tell_each_alert_once(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    jobs = [run_job(tmp_path, there, "never", 15) for _ in range(3)]
    assert [job.wait(120) for job in jobs] == [0, 0, 0]
    notify(settings)
    occasions = [alert["occasion"] for each in there.posted for alert in each.content["alerts"]]
    assert sorted(occasions, key=int) == [str(number) for number in range(15)]


def test_subjects_that_were_never_wrong_are_no_news(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    notify(settings, well=[Subject("check_failed", "raw.ok", "2026-01-01")])
    assert there.posted == []


def test_a_full_disk_is_the_reason_and_what_was_noted_stays(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    notify(settings, cursors={"before": CursorMove(None, "1")})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        (found,) = notify(settings, [Alert("gate_refused", "churn", "warning", "x" * 20_000, {}, AT)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be read or written" in found.reason
    journal = read_journal(settings)
    assert (journal.cursor("before"), journal.alerts) == ("1", {})


def test_what_two_looks_read_from_the_same_position_is_noted_once(tmp_path: Path, there: Receiver) -> None:
    settings = alert_settings(tmp_path, there)
    notify(settings, [STALE], [STALE.subject], cursors={"log": CursorMove(None, "5")})
    assert notify(settings, [STALE], [STALE.subject], cursors={"log": CursorMove(None, "5")})[0].messages == 0
    assert told(there) == [[("firing", "churn", 1), ("resolved", "churn", 1)]]
    assert len(read_journal(settings).alerts) == 1
