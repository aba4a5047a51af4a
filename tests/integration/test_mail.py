"""Mailings against a real SMTP server: limits, opt-outs, addresses, refusals, encryption, the dry run."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from letters import (
    MAILINGS,
    accepted,
    contacts,
    ledger_states,
    letters,
    mail_settings,
    published_lake,
    smtp_server,
    write_contacts,
)
from shelf_lake import LAST, copy_of
from shelf_project.pipelines.letters import CONTACTS
from shelf_project.pipelines.letters import letters as declared
from shelf_project.pipelines.shelf import offers

from forecache.base.errors import InputError, NotFoundError, SettingsError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.base.table_names import MAIL_TABLE
from forecache.declare import Snapshot, TableSource
from forecache.kit import lease
from forecache.kit.delta.tables import open_table
from forecache.plugins.mail.recipients import sending_order
from forecache.plugins.mail.stage import mail, write_messages

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def lake(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return published_lake(spark, tmp_path_factory.mktemp("letters") / "home")


def users_of(record: Path) -> list[str]:
    return [message["X-Envelope-To"].partition("@")[0] for message in accepted(record)]


def home_with(lake: Settings, tmp_path: Path, rows: list[dict[str, Any]], port: int = 1, **more: Any) -> Settings:
    copy_of(lake, tmp_path / "home")
    settings = mail_settings(tmp_path / "home", port, **more)
    write_contacts(settings, rows)
    return settings


def test_users_beyond_a_limit_wait_in_the_stated_order(lake: Settings, tmp_path: Path) -> None:
    mailing = dataclasses.replace(letters, daily_limit=25)
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(40), port)
        first = mail(settings, mailing, limit=10)
        second = mail(settings, mailing)
        third = mail(settings, mailing)
        fourth = mail(settings, letters)  # another day would have another limit
    assert [result.rows for result in (first, second, third, fourth)] == [10, 15, 0, 15]
    assert [result.details["waiting"] for result in (first, second, third, fourth)] == [30, 15, 15, 0]
    assert third.skipped
    order = sorted((row["customer"] for row in contacts(40)), key=lambda user: sending_order(LAST, user))
    assert users_of(tmp_path / "record") == order
    manifest = first.details
    rows = open_table(settings, MAIL_TABLE).to_pyarrow_table().to_pylist()
    assert {(row["as_of"], row["store_version"], row["delta_version"], row["table"]) for row in rows} == {
        (LAST, manifest["store_version"], manifest["delta_version"], "predictions_offers")
    }
    assert "@" not in json.dumps([row["user"] + row["reason"] for row in rows])


def test_opt_outs_count_at_the_time_of_sending(lake: Settings, tmp_path: Path) -> None:
    more = {"c001": {"opted_out": True}, "c002": {"opted_out": None}}
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(10, more), port)
        order = sorted((row["customer"] for row in contacts(10)), key=lambda user: sending_order(LAST, user))
        late = next(user for user in reversed(order) if user not in more)

        def opt_out_late(message: str, share: float | None = None) -> None:
            if message.startswith("sending"):  # after users were chosen, before the batch
                write_contacts(settings, contacts(10, {**more, late: {"opted_out": True}}))

        result = mail(settings, letters, progress=opt_out_late)
    assert set(users_of(tmp_path / "record")) == set(order) - {"c001", "c002", late}
    assert (result.rows, result.details["opted_out"]) == (7, 2)


def test_opt_outs_in_a_table_that_was_made_anew_meanwhile_count(lake: Settings, tmp_path: Path) -> None:
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(3), port)

        def make_anew(message: str, share: float | None = None) -> None:
            if message.startswith("sending"):
                shutil.rmtree(settings.table_uri("contacts"))
                write_contacts(settings, contacts(3, {"c001": {"opted_out": True}}))

        assert mail(settings, letters, progress=make_anew).rows == 2
    assert sorted(users_of(tmp_path / "record")) == ["c000", "c002"]


def test_what_the_server_says_of_one_address_does_not_stop_the_others(lake: Settings, tmp_path: Path) -> None:
    more = {
        "c001": {"address": "refused@example.com"},
        "c002": {"address": "later@example.com"},
        "c003": {"address": "large@example.com"},
        "c004": {"address": "no address"},
        "c005": {"address": None},
        "c006": {"address": "a@example.com\r\nRCPT TO:<b@example.com>"},
    }
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(12, more), port)
        with pytest.raises(
            UnavailableError, match=r"6 messages of letters were accepted, and 1 have to be tried again.*451"
        ):
            mail(settings, letters)
        states = ledger_states(settings)
        assert [states[f"c{n:03d}"] for n in range(1, 7)] == ["refused", "deferred", "refused", *["unusable"] * 3]
        assert Counter(states.values())["accepted"] == 6
        write_contacts(settings, contacts(12, {"c001": more["c001"], "c005": more["c005"]}))
        result = mail(settings, letters)
        assert (result.rows, result.details["done_before"], result.details["unusable"]) == (3, 8, 1)
        assert mail(settings, letters).rows == 0
    assert sorted(users_of(tmp_path / "record")) == [f"c{n:03d}" for n in range(12) if n not in (1, 3, 5)]


@pytest.mark.parametrize("policy", ["send", "skip", "ask"])
def test_a_connection_that_is_lost_leaves_only_its_own_message_in_doubt(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("FORECACHE_BENCH_MAIL_RECORD", str(tmp_path / "record"))
    more = {"c001": {"address": "lost@example.com"}, "c002": {"address": "taken@example.com"}}
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(8, more), port)
        with pytest.raises(UnavailableError, match="6 messages of letters were accepted, and 2 have to be tried again"):
            mail(settings, MAILINGS[policy])
        assert {user for user, state in ledger_states(settings).items() if state == "in doubt"} == {"c001", "c002"}
        mail(settings, MAILINGS[policy])
    copies = Counter(users_of(tmp_path / "record"))
    assert copies["lost"] == (0 if policy == "skip" else 1)
    assert copies["taken"] == (2 if policy == "send" else 1)
    assert len(copies) == 7 + (policy != "skip")
    ids = {message["Message-ID"] for message in accepted(tmp_path / "record")}
    assert len(ids) == len(copies)


def test_a_server_that_stops_half_way_is_told_of_and_the_rest_follows(lake: Settings, tmp_path: Path) -> None:
    with smtp_server(tmp_path / "record", most=7) as port:
        settings = home_with(lake, tmp_path, contacts(20), port)
        with pytest.raises(UnavailableError, match=r"refuses messages from shop@example.com \(421 4.3.2 closing\)"):
            mail(settings, letters)
    assert Counter(ledger_states(settings).values()) == {"accepted": 7, "deferred": 13}
    with pytest.raises(UnavailableError, match=f"The SMTP server 127.0.0.1:{port} cannot be used"):
        mail(settings, letters)
    with smtp_server(tmp_path / "record") as port:
        assert mail(mail_settings(tmp_path / "home", port), letters).rows == 13
    assert Counter(users_of(tmp_path / "record")) == Counter(row["customer"] for row in contacts(20))


def test_a_server_that_takes_nothing_is_not_asked_for_ever(lake: Settings, tmp_path: Path) -> None:
    more = {row["customer"]: {"address": f"refused-{row['customer']}@example.com"} for row in contacts(60)}
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(60, more), port)
        with pytest.raises(UnavailableError, match="took none of 20 messages in a row, the last with: 550"):
            mail(settings, letters)
        assert Counter(ledger_states(settings).values()) == {"deferred": 50}
        write_contacts(settings, contacts(60))
        assert mail(settings, letters).rows == 60
    assert Counter(users_of(tmp_path / "record")) == Counter(row["customer"] for row in contacts(60))


@pytest.mark.parametrize("step", ["intended", "at the last byte", "sent", "answered", "noted"])
@pytest.mark.parametrize("policy", ["send", "skip", "ask"])
def test_a_run_that_is_interrupted_records_what_it_knows(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, policy: str
) -> None:
    monkeypatch.setenv("FORECACHE_BENCH_MAIL_RECORD", str(tmp_path / "record"))
    times = 0

    def interrupt(name: str) -> None:
        nonlocal times
        times += name == step
        if name == step and times == (1 if step == "intended" else 4):
            raise KeyboardInterrupt

    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(9), port)
        monkeypatch.setattr(mail_step, "on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mail(settings, MAILINGS[policy])
        monkeypatch.setattr(mail_step, "on_step", None)
        states = Counter(ledger_states(settings).values())
        assert states["intended"] == 0 or step == "intended"
        assert states["in doubt"] == (step in ("sent", "answered"))
        mail(settings, MAILINGS[policy])
    copies = Counter(users_of(tmp_path / "record"))
    if policy == "send":
        assert set(copies) == {row["customer"] for row in contacts(9)}
        assert sum(copies.values()) <= 9 + (step in ("sent", "answered"))
    else:
        assert max(copies.values()) == 1
        assert len(copies) >= 9 - (policy == "skip" and step in ("at the last byte", "sent"))


@pytest.mark.parametrize("step", ["intended", "at the last byte", "noted", "recorded"])
def test_a_machine_that_slept_beyond_the_term_of_its_lease_goes_on(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real, slept_s = lease._now, 0.0

    def sleep(name: str) -> None:
        nonlocal slept_s
        slept_s += 100.0 * (name == step)

    monkeypatch.setattr(lease, "_now", lambda: real() + slept_s)
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(60), port)
        monkeypatch.setattr(mail_step, "on_step", sleep)
        assert mail(settings, letters).rows == 60
    assert set(ledger_states(settings).values()) == {"accepted"}
    assert max(Counter(users_of(tmp_path / "record")).values()) == 1


def test_a_journal_that_cannot_be_written_stops_a_message_before_its_last_byte(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.write, [3]

    def fills_up(descriptor: int, content: bytes) -> int:
        if content.startswith(b'{"user"') and content.endswith(b'"answer": null}\n') and full[0]:
            full[0] -= 1
            return write(descriptor, content[:10])
        return write(descriptor, content)

    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(9), port)
        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(UnavailableError, match="3 have to be tried again"):
            mail(settings, letters)
        monkeypatch.setattr(os, "write", write)
        assert Counter(ledger_states(settings).values()) == {"accepted": 6, "deferred": 3}
        assert mail(settings, letters).rows == 3
    assert set(Counter(users_of(tmp_path / "record")).values()) == {1}


def test_a_user_who_is_gone_from_the_addresses_before_the_batch_gets_nothing(lake: Settings, tmp_path: Path) -> None:
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(6), port)

        def leave(message: str, share: float | None = None) -> None:
            if message.startswith("sending"):
                write_contacts(settings, contacts(6)[1:])

        assert mail(settings, letters, progress=leave).rows == 5
    assert "c000" not in users_of(tmp_path / "record")


def test_a_message_that_cannot_be_written_does_not_stop_the_others(lake: Settings, tmp_path: Path) -> None:
    template = tmp_path / "letter.txt.j2"
    template.write_text("{{ first_name.upper() }}")
    mailing = dataclasses.replace(letters, template=template, html=None)
    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(5, {"c003": {"first_name": None}}), port)
        with pytest.raises(InputError, match="4 messages of letters were accepted, and 1 could not be written.*'c003'"):
            mail(settings, mailing)
        assert ledger_states(settings)["c003"] == "unusable"
        write_contacts(settings, contacts(5))
        assert mail(settings, mailing).rows == 1


def test_a_dry_run_writes_files_and_nothing_else(lake: Settings, tmp_path: Path) -> None:
    settings = home_with(lake, tmp_path, contacts(9, {"c001": {"opted_out": True}}), smtp_host="")
    found = write_messages(settings, letters, tmp_path / "out", limit=5)
    assert len(found) == 5 == len(list((tmp_path / "out").iterdir()))
    assert all("Subject: For you, Name c0" in path.read_text() for path in found)
    assert not Path(settings.table_uri(MAIL_TABLE)).exists()
    with pytest.raises(SettingsError, match="No SMTP server is set. Set FORECACHE_SMTP_HOST"):
        mail(settings, letters)
    assert not Path(settings.table_uri(MAIL_TABLE)).exists()


def test_addresses_that_cannot_be_used_stop_everything_before_anything_is_sent(lake: Settings, tmp_path: Path) -> None:
    copy_of(lake, tmp_path / "home")
    settings = mail_settings(tmp_path / "home", 1)
    with pytest.raises(
        NotFoundError, match="The address table 'contacts' cannot be read: there is no Delta table in .*/contacts"
    ):
        mail(settings, letters)
    with pytest.raises(NotFoundError, match="The address table '/nowhere/at/all' cannot be read"):
        mail(settings, dataclasses.replace(letters, addresses="/nowhere/at/all"))
    write_contacts(settings, [*contacts(3), *contacts(1)])
    with pytest.raises(InputError, match="contacts, the addresses of mailing 'letters', has the user 'c000' twice"):
        mail(settings, letters)
    with pytest.raises(InputError, match="have no column 'nick'. They have customer, address, opted_out, first_name"):
        mail(settings, dataclasses.replace(letters, fields=("nick",)))
    with pytest.raises(InputError, match="The column 'first_name' of contacts, .* is string. It has to be a boolean"):
        mail(settings, dataclasses.replace(letters, opted_out="first_name"))
    nothing = dataclasses.replace(letters, pipeline=dataclasses.replace(letters.pipeline, name="others"))
    with pytest.raises(NotFoundError, match="Nothing is published for others"):
        mail(settings, nothing)
    assert not Path(settings.table_uri(MAIL_TABLE)).exists()


def certificate(folder: Path) -> dict[str, str]:
    """A certificate for 127.0.0.1 that signs itself."""
    names = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", names["key"],
         "-out", names["certificate"], "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return names


@pytest.mark.parametrize("security", ["starttls", "ssl"])
def test_the_connection_is_encrypted_and_logged_in(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    names = certificate(tmp_path)
    options = {**names, "implicit": security == "ssl", "user": "shop", "password": "s3cret!"}
    with smtp_server(tmp_path / "record", **options) as port:
        settings = home_with(lake, tmp_path, contacts(2))

        def told(password: str) -> Settings:
            changes = {"smtp_port": port, "smtp_security": security, "smtp_user": "shop", "smtp_password": password}
            return settings.model_copy(update=changes)

        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            mail(told("s3cret!"), letters)
        monkeypatch.setenv("SSL_CERT_FILE", names["certificate"])
        with pytest.raises(UnavailableError, match="refuses FORECACHE_SMTP_USER and its password") as refused:
            mail(told("wr0ng!"), letters)
        assert "wr0ng" not in f"{refused.value}{settings!r}"
        assert mail(told("s3cret!"), letters).rows == 2
    assert "s3cret" not in repr(told("s3cret!"))


def test_a_password_is_not_sent_as_it_is_over_a_network(lake: Settings, tmp_path: Path) -> None:
    settings = home_with(lake, tmp_path, contacts(1), smtp_password="x")
    with pytest.raises(SettingsError, match="FORECACHE_SMTP_PASSWORD would go over the network as it is"):
        mail(settings.model_copy(update={"smtp_host": "mail.example.com"}), letters)


def land_contacts(settings: Settings, day: date, rows: list[str]) -> None:
    folder = Path(settings.landing_uri) / "contacts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{day}.csv").write_text("\n".join(["customer,address,opted_out,first_name,day", *rows]) + "\n")


def test_of_landed_addresses_the_latest_row_counts_and_nothing_waits(
    spark: "SparkSession", lake: Settings, tmp_path: Path
) -> None:
    from forecache.lake.ingest.ingest import ingest

    copy_of(lake, tmp_path / "home")
    with smtp_server(tmp_path / "record") as port:
        settings = mail_settings(tmp_path / "home", port)
        day = LAST - timedelta(days=1)
        land_contacts(
            settings, LAST, [f"c001,c001@example.com,true,Ann,{LAST}", f"c002,new@example.com,false,Bob,{LAST}"]
        )
        land_contacts(settings, day, [f"c00{n},c00{n}@example.com,false,Old {n},{day}" for n in range(4)])
        with pytest.raises(InputError, match="The landing file '.*.csv' of source 'contacts' has not been ingested"):
            mail(settings, declared)
        ingest(settings, CONTACTS)
        assert mail(settings, declared).rows == 3
        (Path(settings.landing_uri) / "contacts" / f"{LAST}-b.csv").write_bytes(b"\xff\xfe\x00broken\n")
        ingest(settings, CONTACTS)
        with pytest.raises(InputError, match=r"is in quarantine, and may hold an opt-out"):
            mail(settings, declared)
    assert sorted(users_of(tmp_path / "record")) == ["c000", "c003", "new"]
    assert os.path.exists(settings.table_uri(MAIL_TABLE))


def test_what_is_open_of_a_date_is_not_sent_once_another_is_published_and_is_after_a_rollback(
    lake: Settings, tmp_path: Path
) -> None:
    from forecache.operations.publish_night import publish_night
    from forecache.plugins.recommend.stage import recommend
    from forecache.serve.store import open_store

    with smtp_server(tmp_path / "record") as port:
        settings = home_with(lake, tmp_path, contacts(12, {"c001": {"address": "later@example.com"}}), port)
        with pytest.raises(UnavailableError, match="11 messages of letters were accepted, and 1 have to be tried"):
            mail(settings, letters)
        write_contacts(settings, contacts(13))
        eve = LAST - timedelta(days=1)
        recommend(settings, offers, [eve])
        publish_night(settings, offers, night=eve, unchecked=True)
        result = mail(settings, letters)
        assert (result.rows, result.details["as_of"]) == (13, eve.isoformat())
        rows = open_table(settings, MAIL_TABLE).to_pyarrow_table().to_pylist()
        assert [row["as_of"] for row in rows if row["state"] == "deferred"] == [LAST]
        assert mail(settings, letters).rows == 0
        open_store(settings, offers.name).rollback(1)
        assert mail(settings, letters).rows == 2
    assert Counter(users_of(tmp_path / "record")) == {f"c{n:03d}": 2 for n in range(13)}


def test_addresses_may_be_an_existing_table_of_which_the_latest_row_counts(lake: Settings, tmp_path: Path) -> None:
    copy_of(lake, tmp_path / "home")
    day, before = LAST, LAST - timedelta(days=1)
    rows = [
        ("c000", False, before), ("c000", True, day), ("c001", True, before), ("c001", False, day),
        ("c002", True, day), ("c002", False, day), ("c003", None, day), ("c003", False, day),
        ("c004", False, day), ("c004", True, None), ("c005", True, None), (None, False, day),
    ]  # fmt: skip
    table = pa.table(
        {
            "customer": [user for user, _, _ in rows],
            "address": [f"{user}@example.com" for user, _, _ in rows],
            "opted_out": [value for _, value, _ in rows],
            "first_name": ["Ann"] * len(rows),
            "day": [at for _, _, at in rows],
        }
    )
    write_deltalake(tmp_path / "people", table)
    source = TableSource("people", str(tmp_path / "people"), CONTACTS.columns, "day", start=LAST)
    mailing = dataclasses.replace(letters, addresses=source)
    with smtp_server(tmp_path / "record") as port:
        settings = mail_settings(tmp_path / "home", port)
        result = mail(settings, mailing)
        assert (result.rows, result.details["opted_out"]) == (2, 4)
        assert sorted(users_of(tmp_path / "record")) == ["c001", "c004"]
        state = dataclasses.replace(source, event_time="", time=Snapshot(), key=("customer",))
        with pytest.raises(InputError, match="Source 'people' has the key customer c00. in 2 rows of version 0"):
            mail(settings, dataclasses.replace(mailing, addresses=state))
        write_deltalake(tmp_path / "people", table.slice(8, 1), mode="overwrite")
        assert mail(settings, dataclasses.replace(mailing, addresses=state)).details["without_address"] > 0
        write_deltalake(tmp_path / "people", table.slice(2, 1).cast(table.schema), mode="overwrite")
        assert mail(settings, dataclasses.replace(mailing, addresses=state)).rows == 0


def test_a_home_that_was_copied_without_the_times_of_its_files_sends(
    spark: "SparkSession", lake: Settings, tmp_path: Path
) -> None:
    from forecache.lake.ingest.ingest import ingest
    from forecache.lake.ingest.ingested_files import pending_files

    copy_of(lake, tmp_path / "home")
    with smtp_server(tmp_path / "record") as port:
        settings = mail_settings(tmp_path / "home", port)
        day = LAST - timedelta(days=1)
        land_contacts(settings, day, [f"c00{n},c00{n}@example.com,false,Old {n},{day}" for n in range(3)])
        ingest(settings, CONTACTS)
        [landed] = (Path(settings.landing_uri) / "contacts").iterdir()
        os.utime(landed, (1_000_000_000, 1_000_000_000))
        assert mail(settings, declared).rows == 3

        content = landed.read_bytes()
        landed.write_bytes(content.replace(b"false", b"true ", 1))
        assert landed.stat().st_size == len(content)
        assert [file.name for file in pending_files(settings, CONTACTS)] == [landed.name]
