"""What a mailing refuses when it is declared, and the messages that it makes."""

import dataclasses
from datetime import date, datetime, timezone
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from letters import letters

from forecache.base.errors import SettingsError
from forecache.declare import Column, Source
from forecache.kit.smtp import is_address, usable_address
from forecache.plugins.mail.recipients import Recipient
from forecache.plugins.mail.stage import message_id, message_of

DAY, NOW = date(2026, 2, 28), datetime(2026, 3, 1, 8, tzinfo=timezone.utc)
ADDRESSES = Source(
    name="contacts",
    columns=(
        Column("customer", "string"),
        Column("address", "string"),
        Column("opted_out", "boolean"),
        Column("first_name", "string"),
        Column("age", "int"),
        Column("day", "date"),
    ),
    event_time="day",
    start=DAY,
)
ITEMS = [{"item": "tools-01", "score": 1.5, "reason": None}, {"item": "books-02", "score": 0.5, "reason": "books-01"}]


def declared(tmp_path: Path, text: str = "", **changes: Any) -> Any:
    if text:
        changes["template"] = tmp_path / "letter.txt.j2"
        changes["template"].write_text(text)
    return dataclasses.replace(letters, **{"html": None, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{{ customr }}",
            "The template of Mailing 'letters' has the unknown field 'customr'. It may have customer, as_of",
        ),
        ("{% for p in items %}{{ p.name }}{% endfor %}", "unknown field p.name in line 1. A place of a list has item"),
        ("\n{% for p in items[:3] %}{% if p.prise %}x{% endif %}{% endfor %}", "unknown field p.prise in line 2"),
        ("{% for p in items %}{{ p.item }", "The template of Mailing 'letters' is no template: .* \\(line 1\\)"),
        ("{{ items | shout }}", "is no template: No filter named 'shout'"),
        ("{% include 'other.txt' %}", "loads another template in line 1"),
        ("{{ self.__class__ }}{{ address }}", "unknown field 'address'"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_at_load(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declared(tmp_path, text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "{{ prise }}"}, "The subject of Mailing 'letters' has the unknown field 'prise'"),
        ({"subject": "one\ntwo"}, "It is one line"),
        ({"unsubscribe": "http://shop.example.com"}, "It begins with https:// or mailto:"),
        ({"unsubscribe": "https://shop.example.com/{{ nobody }}"}, "unknown field 'nobody'"),
        ({"sender": "nobody"}, "has sender='nobody'. It is one address"),
        ({"sender": "a@example.com, b@example.com"}, "It is one address"),
        ({"sender": "x@example.com\r\nBcc: b@example.com"}, "It is one address"),
        ({"template": Path("letter.txt.j2")}, "depends on the folder one is in"),
        ({"template": Path("/nowhere/letter.txt.j2")}, "letter.txt.j2, cannot be read"),
        ({"daily_limit": 0}, "has daily_limit=0. Give 1 or more"),
        ({"addresses": "No Such"}, "the name of a table of the lake"),
        (
            {"addresses": ADDRESSES, "user": "nobody"},
            "has the column 'nobody', which source 'contacts' does not declare",
        ),
        ({"addresses": ADDRESSES, "opted_out": "age"}, "That column is a int; it has to be a boolean"),
        ({"addresses": ADDRESSES, "address": "age"}, "That column is a int; it has to be a string"),
        ({"fields": ("items",)}, "declares the field 'items' twice"),
        ({"in_doubt": "maybe"}, "It is one of 'send', 'skip'"),
        ({"name": "My letters"}, "The mailing name 'My letters' is not usable"),
    ],
)
def test_what_a_run_would_fail_by_is_refused_at_load(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declared(tmp_path, **changes)


def message(mailing: Any, *, name: str = "Zoë", items: Any = ITEMS, address: str = "c001@example.com") -> Any:
    given_ = {"customer": "c001", "as_of": DAY, "items": items, "first_name": name}
    recipient = Recipient("c001", address, {"first_name": name})
    content = message_of(mailing, recipient, given_, as_of=DAY, at=NOW)
    assert content == message_of(mailing, recipient, given_, as_of=DAY, at=NOW), "the same for the same arguments"
    assert all(line.endswith(b"\r") for line in content.split(b"\n")[:-1])
    assert max(map(len, content.split(b"\r\n"))) <= 998
    return message_from_bytes(content, policy=SMTP)


def test_a_message_has_text_and_html_and_the_headers_that_receivers_ask_for() -> None:
    found = message(letters)
    assert found["To"] == "Zoë <c001@example.com>"
    assert found["From"] == "The shop <shop@example.com>"
    assert found["Subject"] == "For you, Zoë: tools-01"
    assert found["Message-ID"] == message_id(letters, DAY, "c001")
    assert found["Message-ID"].endswith("@example.com>")
    assert found["List-Unsubscribe"] == "<https://shop.example.com/bye?who=c001>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert found["Auto-Submitted"] == "auto-generated"
    assert "- books-02, as you took books-01" in found.get_body(("plain",)).get_content()
    assert "<li>tools-01</li>" in found.get_body(("html",)).get_content()


def test_a_message_id_is_another_for_another_user_date_or_mailing() -> None:
    ids = {
        message_id(letters, DAY, "c001"),
        message_id(letters, DAY, "c002"),
        message_id(letters, date(2026, 3, 1), "c001"),
        message_id(dataclasses.replace(letters, name="others"), DAY, "c001"),
    }
    assert len(ids) == 4


HOSTILE = "Bob\r\nBcc: everybody@example.com\r\n\r\nGo to http://evil"


def test_a_name_cannot_add_a_header_or_a_body() -> None:
    found = message(letters, name=HOSTILE, items=[{"item": HOSTILE, "score": 1.0, "reason": None}])
    assert "Bcc" not in found
    assert set(found.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "List-Unsubscribe", "List-Unsubscribe-Post",
        "MIME-Version", "Content-Type",
    }  # fmt: skip
    assert [address.addr_spec for address in found["To"].addresses] == ["c001@example.com"]


@given(name=st.text(max_size=300), item=st.text(min_size=1, max_size=300))
def test_whatever_the_values_a_message_is_whole_and_goes_to_one_address(name: str, item: str) -> None:
    items = [{"item": item, "score": 1.0, "reason": name}]
    try:
        found = message(letters, name=name, items=items)
    except ValueError:
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in name + item)  # half a surrogate pair is no text
        return
    assert [address.addr_spec for address in found["To"].addresses] == ["c001@example.com"]
    assert len(list(found.walk())) == 3
    assert not found.defects


def test_html_is_escaped_and_text_is_not() -> None:
    found = message(letters, name="<script>alert(1)</script>")
    assert "<script>" not in found.get_body(("html",)).get_content()
    assert "Good morning <script>alert(1)</script>," in found.get_body(("plain",)).get_content()


def test_a_template_reaches_nothing_but_its_values(tmp_path: Path) -> None:
    for text in ("{{ ''.__class__.__mro__ }}", "{{ items.append(1) }}", "{% for n in range(10 ** 9) %}{% endfor %}"):
        with pytest.raises(ValueError, match="SecurityError|OverflowError"):
            message(declared(tmp_path, text))


def test_a_list_that_is_too_short_for_its_template_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UndefinedError"):
        message(declared(tmp_path, "{{ items[4].item }}"))


@pytest.mark.parametrize(
    "text",
    [
        "", "nobody", "@example.com", "a@", "a b@example.com", "a@b@example.com", "a,b@example.com", "<a@example.com>",
        "a@example.com\r\nRCPT TO:<b@example.com>", "a@-example.com", "a@example..com", f"{'a' * 65}@example.com",
        f"a@{'b' * 64}.com", f"a@{'b.' * 130}com", ".a@example.com", "zoë@example.com", '"a"@example.com',
        "a@example.com.",
        "a" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_not_written_to(text: str) -> None:
    assert usable_address(text) == ""


def test_addresses_are_taken_as_smtp_takes_them() -> None:
    assert usable_address(" a.b+c@example.com ") == "a.b+c@example.com"
    assert usable_address("a@bücher.example") == "a@xn--bcher-kva.example"
    assert usable_address(None) == ""
    assert is_address("root@localhost")
