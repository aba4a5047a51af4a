"""The ledger of mailings between two machines over one lake: only the newest holder of the lease writes to it."""

from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from forecache.base.settings import Settings, load_settings
from forecache.base.table_names import MAIL_TABLE
from forecache.kit.delta.small_tables import row_schema
from forecache.kit.delta.tables import append_rows
from forecache.kit.installation import open_lake
from forecache.kit.lease import Lease, LeaseLostError, hold_lease
from forecache.plugins.mail.ledger import MailLedger, MailRecord

DAY = date(2026, 1, 1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def intended(user: str, batch: str) -> MailRecord:
    now = datetime.now(timezone.utc)
    return MailRecord("letters", DAY, user, "intended", "<1@example.com>", now, batch, "predictions", 1, 1)


def take(settings: Settings) -> Lease:
    """A lease that its holder still believes to have when the next one takes it."""
    with hold_lease(open_lake(settings), "mail/letters", action="sends messages") as lease:
        pass
    lease._holder = replace(lease._holder, released=False)
    return lease


def test_a_sender_whose_lease_another_one_has_taken_over_neither_begins_a_batch_nor_records_one(
    settings: Settings,
) -> None:
    first = MailLedger(settings, "letters", take(settings))
    ann, ben = intended("ann", "a"), intended("ben", "a")
    first.record([ann, ben])
    second = MailLedger(settings, "letters", take(settings))
    assert {user: row.state for user, row in second.latest_rows(DAY).items()} == {"ann": "intended", "ben": "intended"}
    second.record([ann.with_state("skipped"), ben.with_state("skipped")])
    for late in ([ann.with_state("accepted"), ben.with_state("deferred")], [intended("cid", "b")]):
        with pytest.raises(LeaseLostError, match="changed by a later holder of the lease 'mail/letters'"):
            first.record(late)
    assert {user: row.state for user, row in second.latest_rows(DAY).items()} == {"ann": "skipped", "ben": "skipped"}


def test_a_mailing_fences_no_other_one(settings: Settings) -> None:
    late = MailLedger(settings, "letters", take(settings))
    for _ in range(3):
        with hold_lease(open_lake(settings), "mail/offers", action="sends messages") as lease:
            MailLedger(settings, "offers", lease).record([intended("ann", "a")])
    late.record([intended("ann", "b")])
    assert late.latest_rows(DAY)["ann"].batch == "b"


def test_a_ledger_with_a_column_of_an_earlier_version_is_read_and_appended_to(settings: Settings) -> None:
    with hold_lease(open_lake(settings), "mail/letters", action="sends messages") as lease:
        ledger = MailLedger(settings, "letters", lease)
        row = vars(intended("ann", "a")) | {"commit_version": 0}
        schema = row_schema(MailRecord)
        append_rows(settings, MAIL_TABLE, pa.Table.from_pylist([row], schema).append_column("home", pa.array(["host"])))
        ledger.record([intended("ben", "b")])
        assert {user: row.batch for user, row in ledger.latest_rows(DAY).items()} == {"ann": "a", "ben": "b"}
