"""The ledger of mailings between two machines, and what it has of older as-of dates."""

from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings, load_settings
from forecache.plugins.mail.ledger import MailLedger, MailRecord

DAYS = [date(2026, 1, 1), date(2026, 1, 2)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def intended(home: str, as_of: date, user: str) -> MailRecord:
    return MailRecord(
        "letters",
        as_of,
        user,
        "intended",
        "<1@example.com>",
        datetime.now(timezone.utc),
        home,
        home,
        "predictions",
        1,
        1,
    )


def test_another_machine_goes_on_with_the_next_as_of_date(settings: Settings) -> None:
    first, second = MailLedger(settings, "letters", "first"), MailLedger(settings, "letters", "second")
    assert first.latest_rows(DAYS[0]) == {}
    row = intended("first", DAYS[0], "ann")
    first.commit_intent([row])
    first.record([row.with_state("accepted", code=250)])
    assert second.latest_rows(DAYS[1]) == {}
    second.commit_intent([intended("second", DAYS[1], "ann")])
    with pytest.raises(ConflictError, match="sends the mailing letters of 2026-01-02 from another home"):
        first.latest_rows(DAYS[1])


def test_another_machine_that_writes_after_the_look_keeps_this_one_from_sending(settings: Settings) -> None:
    first, second = MailLedger(settings, "letters", "first"), MailLedger(settings, "letters", "second")
    assert first.latest_rows(DAYS[0]) == second.latest_rows(DAYS[0]) == {}
    first.commit_intent([intended("first", DAYS[0], "ann")])
    with pytest.raises(ConflictError, match="from another home"):
        second.commit_intent([intended("second", DAYS[0], "ann")])
