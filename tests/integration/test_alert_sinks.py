"""The formats of the sinks: Slack by its own client, Alertmanager by a real one, mail by a real server."""

import json
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import Receiver, receiver
from free_ports import free_port
from letters import accepted, smtp_server
from monitoring_services import program, started
from slack_sdk.models.blocks import Block
from slack_sdk.webhook import WebhookClient

from forecache.base.alert import Alert
from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from forecache.plugins.alerts.message import Message, Notice
from forecache.plugins.alerts.notify import notify
from forecache.plugins.alerts.receivers import (
    alertmanager_content,
    configured_alert_receivers,
    email_content,
    slack_content,
)

AT = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
NOW = datetime.now(timezone.utc)
STALE = Alert("version_stale", "churn", "warning", "Version 3 of <churn> is 30 hours old & more.", {"version": 3}, NOW)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def message_of(alerts: list[Alert], **more: Any) -> Message:
    notices = tuple(Notice(f"{number:032x}", alert, "firing", **more) for number, alert in enumerate(alerts))
    return Message("a" * 32, "shop", AT, notices)


def many(count: int, text: str = "") -> list[Alert]:
    return [Alert("gate_refused", f"model_{n:03}", "warning", f"No. {text}", {}, AT, str(n)) for n in range(count)]


@pytest.mark.parametrize("alerts", [[STALE], many(3, "x" * 9000), many(200)], ids=["one", "long", "many"])
def test_slacks_client_finds_every_block_valid(there: Receiver, alerts: list[Alert]) -> None:
    content = slack_content(message_of(alerts))
    blocks = Block.parse_all(content["blocks"])
    assert [block.to_dict() for block in blocks] == content["blocks"]
    for block in blocks:
        block.validate_json()
    assert 1 < len(blocks) <= 50
    assert WebhookClient(there.url).send(text=content["text"], blocks=blocks).status_code == 200
    assert there.posted[0].content["blocks"] == content["blocks"]


def test_slack_gets_what_is_wrong_with_nothing_taken_for_a_link(tmp_path: Path, there: Receiver) -> None:
    settings = load_settings(home=tmp_path / "home", alert_slack=f"{there.url}/services/x", project="shop")
    notify(settings, [STALE])
    (posted,) = there.posted
    assert posted.content["text"] == "[shop] Version is stale: churn"
    header, section, _ = posted.content["blocks"]
    assert header["text"]["text"] == "[shop] Version is stale: churn"
    assert section["text"]["text"] == (
        ":large_yellow_circle: *Version is stale: churn*\nVersion 3 of &lt;churn&gt; is 30 hours old &amp; more."
    )


def test_slack_names_twenty_groups_and_counts_the_others() -> None:
    blocks = slack_content(message_of(many(200)))["blocks"]
    assert len(blocks) == 1 + 20 + 1 + 1
    assert blocks[-2]["text"]["text"] == "And 180 more: `forecache alerts` lists them."


def test_alertmanager_keeps_an_alert_until_well_after_its_next_repeat() -> None:
    refused = Alert("gate_refused", "churn", "warning", "No.", {}, AT, "4")
    moment, lasting = alertmanager_content(message_of([STALE, refused]), repeat_s=3600)
    assert lasting["labels"] == {
        "alertname": "ForecacheVersionStale",
        "severity": "warning",
        "project": "shop",
        "kind": "version_stale",
        "name": "churn",
    }
    assert lasting["annotations"]["summary"] == STALE.summary
    assert datetime.fromisoformat(lasting["endsAt"]) == AT + timedelta(hours=3)
    assert moment["labels"]["occasion"] == "4"
    assert datetime.fromisoformat(moment["endsAt"]) == AT + timedelta(hours=1)


def test_a_real_alertmanager_takes_alerts_and_their_end(tmp_path: Path) -> None:
    (tmp_path / "am.yml").write_text("route:\n  receiver: none\nreceivers:\n  - name: none\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [program("prometheus-alertmanager"), f"--config.file={tmp_path / 'am.yml'}", f"--storage.path={tmp_path}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    settings = load_settings(home=tmp_path / "home", alert_alertmanager=url, project="shop")
    with started(command, tmp_path, f"{url}/-/ready"):
        (told,) = notify(settings, [STALE, *many(500)])
        assert (told.notices, told.reason) == (501, "")
        active = get(f"{url}/api/v2/alerts")
        assert len(active) == 501
        (stale,) = [each for each in active if each["labels"]["kind"] == "version_stale"]
        assert (stale["annotations"]["version"], stale["status"]["state"]) == ("3", "active")
        notify(settings, well=[STALE.subject])
        kinds = {each["labels"]["kind"] for each in get(f"{url}/api/v2/alerts")}
        assert kinds == {"gate_refused"}


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_each_address_gets_a_mail_and_one_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    with smtp_server(tmp_path / "record") as port:
        settings = load_settings(
            home=tmp_path / "home",
            project="shop",
            smtp_host="127.0.0.1",
            smtp_port=port,
            smtp_security="none",
            alert_email="ops@example.org, later@example.org,refused@example.org",
            alert_email_from="Forecache <forecache@example.org>",
        )
        told = {each.sink: each for each in notify(settings, [STALE])}
    assert told["email ops@example.org"].notices == 1
    assert told["email later@example.org"].waiting == 1
    assert told["email refused@example.org"].reason == "The SMTP server answered 550: 5.1.1 <(address)> no such user"
    (mail,) = accepted(tmp_path / "record")
    assert mail["To"] == "ops@example.org"
    assert mail["Subject"] == "[shop] Version is stale: churn"
    assert mail["From"] == "Forecache <forecache@example.org>"
    assert mail["Message-ID"].endswith("@example.org>")


def test_a_mail_cannot_be_given_headers_by_what_it_says() -> None:
    evil = Alert("gate_refused", "churn\r\nBcc: eve@example.org", "warning", "No.\r\n.\r\nMAIL FROM:<x>", {}, AT)
    content = email_content(message_of([evil]), sender="a@example.org", address="b@example.org")
    mail = message_from_bytes(content, policy=policy.default)
    assert mail["Bcc"] is None
    assert mail["Subject"] == "[shop] Gate refused a model: churn Bcc: eve@example.org"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"alert_slack": "hooks.slack.com/secret"}, "FORECACHE_ALERT_SLACK is no URL."),
        ({"alert_webhook": "file:///etc/passwd"}, "FORECACHE_ALERT_WEBHOOK is no URL."),
        ({"alert_email": "a@example.org"}, "FORECACHE_ALERT_EMAIL is set, and no SMTP server."),
        ({"alert_email": "a@example.org", "smtp_host": "mail"}, "FORECACHE_ALERT_EMAIL_FROM is ''"),
        ({"alert_email": "nobody", "smtp_host": "mail", "alert_email_from": "a@example.org"}, "has 'nobody'"),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret_shown(tmp_path: Path, more: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        configured_alert_receivers(load_settings(home=tmp_path, **more))
    assert said in str(error.value)
    assert "secret" not in str(error.value)
