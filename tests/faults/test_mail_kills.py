"""A mailing that is killed after any step, or runs twice at once, against a real SMTP server that records."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from letters import (
    accepted,
    contacts,
    ledger_states,
    mail_settings,
    mail_until,
    published_lake,
    smtp_server,
    write_contacts,
)
from other_machine import move_to
from shelf_lake import LAST, copy_of, lists_by_hand, purchases
from warm import assert_valid_log, processes, start

from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.base.table_names import MAIL_TABLE
from forecache.plugins.mail.stage import BATCH

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.faults

USERS = 60


@pytest.fixture(scope="module")
def lake(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = published_lake(spark, tmp_path_factory.mktemp("letters") / "home")
    write_contacts(settings, contacts(USERS))
    return settings


@pytest.fixture(scope="module")
def expected(lake: Settings) -> dict[str, list[str]]:
    """By user with an address, the first three articles, by hand."""
    known = {row["customer"] for row in purchases(lake, LAST)}
    lists = lists_by_hand(lake, LAST)
    return {row["customer"]: lists[row["customer"]][:3] for row in contacts(USERS) if row["customer"] in known}


def run(home: Path, port: int, policy: str, record: Path, *, step: str = "", number: int = 1) -> str:
    """Send in a process that is killed after a step; what it told last."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(mail_until, home, port, policy, step, number, record, theirs)
    theirs.close()
    try:
        return str(ours.recv())
    except EOFError:
        return ""
    finally:
        process.join()


def assert_contents(record: Path, expected: dict[str, list[str]], *, twice: int = 0, none: int = 0) -> None:
    """Each user has the message that is right for the user, but for so many who have it twice, or not at all."""
    copies: Counter[str] = Counter()
    bodies: dict[str, str] = {}
    for message in accepted(record):
        user = message["X-Envelope-To"].partition("@")[0]
        text = message.get_body(("plain",))
        assert text is not None
        body = text.get_content().replace("\r\n", "\n")
        for article in expected[user]:
            assert f"- {article}" in body
        assert body.startswith(f"Good morning Name {user},")
        assert body.rstrip().endswith(".\nThe line above begins with a period.")
        assert message["Subject"] == f"For you, Name {user}: {expected[user][0]}"
        assert bodies.setdefault(message["Message-ID"], body) == body
        copies[user] += 1
    assert len(bodies) == len(copies), "one Message-ID a user"
    assert len(expected) - len(copies) == none
    assert Counter(copies.values())[2] == twice
    assert max(copies.values()) <= 1 + bool(twice)


# Of the steps within a message the second to happen, of a batch's the first: there are two batches.
@pytest.mark.parametrize("policy", ["send", "skip", "ask"])
@pytest.mark.parametrize("step", mail_step.names)
def test_a_run_that_is_killed_after_a_step_is_finished_by_the_next(
    lake: Settings, tmp_path: Path, expected: dict[str, list[str]], step: str, policy: str
) -> None:
    copy_of(lake, tmp_path / "home")
    record = tmp_path / "record"
    number = 1 if step in ("begun", "intended", "recorded") else 2
    with smtp_server(record) as port:
        assert run(tmp_path / "home", port, policy, record, step=step, number=number) == step
        before = len(accepted(record))
        told = json.loads(run(tmp_path / "home", port, policy, record))
        again = json.loads(run(tmp_path / "home", port, policy, record))
    at_server = {message["X-Envelope-To"] for message in accepted(record)}
    assert again["accepted"] == 0
    assert again["done_before"] == len(expected)
    # What nobody here can know is one message, and only after its last byte was about to go.
    twice = none = 0
    if policy == "send" and step in ("sent", "answered"):
        twice = len(accepted(record)) - len(at_server)
        assert twice <= 1
        assert twice == 1 or step == "sent"
    if policy == "skip" and step in ("at the last byte", "sent"):
        none = len(expected) - len(at_server)
        assert none <= 1
        assert none == 1 or step == "sent"
    assert_contents(record, expected, twice=twice, none=none)
    settings = mail_settings(tmp_path / "home", port)
    states = Counter(ledger_states(settings).values())
    skipped = 1 if policy == "skip" and step in ("at the last byte", "sent", "answered") else 0
    assert states == Counter({"accepted": len(expected) - skipped, **({"skipped": 1} if skipped else {})})
    assert told["accepted"] == len(accepted(record)) - before
    assert_valid_log(settings.table_uri(MAIL_TABLE))


def test_of_two_runs_at_once_each_message_is_sent_by_one(
    lake: Settings, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    copy_of(lake, tmp_path / "home")
    record = tmp_path / "record"
    with smtp_server(record) as port:
        pipes = [processes().Pipe(duplex=False) for _ in range(3)]
        runs = [start(mail_until, tmp_path / "home", port, "send", "", 1, record, theirs) for _, theirs in pipes]
        told = [json.loads(ours.recv())["accepted"] for ours, _ in pipes]
        for process in runs:
            process.join()
    assert sorted(told) == [0, 0, len(expected)]
    assert_contents(record, expected)


def mail_elsewhere(host: str, lake_uri: str, home: Path, *of_run: Any) -> None:
    """Send as on a machine of its own; `of_run` as `mail_until` has it."""
    os.environ["FORECACHE_LAKE"] = lake_uri
    move_to(host, takes_over=host == "next")
    mail_until(home, *of_run)


@pytest.fixture
def machines(lake: Settings, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Start a run on a machine with a home of its own, all over one lake; returns the process and what it tells."""
    shared = copy_of(lake, tmp_path / "shared")

    def start_on(host: str, *of_run: Any, end: int = signal.SIGKILL) -> tuple[Any, Any]:
        copy_of(lake, tmp_path / host)
        ours, theirs = processes().Pipe(duplex=False)
        process = start(mail_elsewhere, host, shared.lake_uri, tmp_path / host, *of_run, theirs, end)
        theirs.close()
        return process, ours

    return start_on


def test_of_two_machines_at_once_over_one_lake_each_message_is_sent_by_one(
    machines: Any, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    record = tmp_path / "record"
    with smtp_server(record) as port:
        runs = [machines(host, port, "send", "", 1, record) for host in ("one", "two")]
        told = [json.loads(ours.recv())["accepted"] for _, ours in runs]
        for process, _ in runs:
            process.join()
    assert sorted(told) == [0, len(expected)]
    assert_contents(record, expected)


@pytest.mark.parametrize(("step", "policy"), [("intended", "send"), ("noted", "send"), ("noted", "skip")])
def test_a_machine_that_vanished_is_followed_by_another_one_after_a_term(
    machines: Any, tmp_path: Path, expected: dict[str, list[str]], step: str, policy: str
) -> None:
    record = tmp_path / "record"
    with smtp_server(record) as port:
        lost, ours = machines("lost", port, policy, step, 1, record)
        assert ours.recv() == step
        lost.join()
        shutil.rmtree(tmp_path / "lost")
        before = len(accepted(record))
        _, ours = machines("next", port, policy, "", 1, record)
        told = json.loads(ours.recv())
    copies = Counter(message["X-Envelope-To"].partition("@")[0] for message in accepted(record))
    # The messages of its last batch are in doubt: the answers were on its disk.
    twice, none = before, 0
    if policy == "skip":
        twice, none = 0, min(BATCH, len(expected)) - before
    assert Counter(copies.values())[2] == twice
    assert len(expected) - len(copies) == none
    assert told["accepted"] == len(accepted(record)) - before


def test_a_sender_that_stood_still_beyond_its_term_sends_nothing_when_it_goes_on(
    machines: Any, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    record = tmp_path / "record"
    with smtp_server(record) as port:
        slow, of_slow = machines("slow", port, "skip", "noted", 5, record, end=signal.SIGSTOP)
        assert of_slow.recv() == "noted"
        _, of_next = machines("next", port, "skip", "", 1, record)
        told = json.loads(of_next.recv())
        in_all = len(accepted(record))
        assert (told["accepted"], in_all) == (len(expected) - BATCH, len(expected) - BATCH + 5)
        settings = mail_settings(tmp_path / "shared", port)
        states = ledger_states(settings)
        os.kill(slow.pid, signal.SIGCONT)
        assert of_slow.recv().startswith("LeaseLostError: ")
        slow.join()
        assert len(accepted(record)) == in_all
        assert ledger_states(settings) == states
        assert Counter(states.values()) == {"accepted": len(expected) - BATCH, "skipped": BATCH}
