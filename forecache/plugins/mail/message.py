"""One message: its templates filled, its headers made, as the bytes that are sent."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Any

from forecache.kit.smtp import one_line
from forecache.plugins.mail.mailing import Mailing, address_of
from forecache.plugins.mail.templates import fill

_NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Recipient:
    """The user that a message is for.

    Attributes:
        user: Key, as text.
        fields: Of the addresses' columns, those for the templates.
    """

    user: str
    address: str
    fields: Mapping[str, Any]


def message_id(mailing: Mailing, as_of: date, user: str) -> str:
    """Message id, equal in every attempt for the same mailing, as-of date and user: servers drop duplicates by it."""
    digest = hashlib.sha256("\0".join((mailing.name, as_of.isoformat(), user)).encode()).hexdigest()
    return f"<{digest[:32]}@{address_of(mailing.sender).rpartition('@')[2]}>"


def message_of(
    mailing: Mailing, recipient: Recipient, values: Mapping[str, Any], *, as_of: date, at: datetime
) -> bytes:
    """A message, lines ending in CRLF; the same for the same arguments.

    Names and other values cannot add headers or recipients: in headers, line ends and other control characters in them
    become spaces.

    Args:
        values: Values for the templates.

    Raises:
        ValueError: A template cannot be filled with these values, or the header cannot be written.
    """
    texts = {what: fill(template, values) for what, template in mailing.templates.items()}
    identity = message_id(mailing, as_of, recipient.user)
    message = EmailMessage(policy=SMTP)
    name, address = parseaddr(mailing.sender)
    message["From"] = Address(one_line(name), addr_spec=address)
    person = "" if mailing.person is None else one_line(recipient.fields[mailing.person] or "")
    message["To"] = Address(person, addr_spec=recipient.address)
    message["Subject"] = one_line(texts["subject"])
    message["Date"] = format_datetime(at)
    message["Message-ID"] = identity
    message["Auto-Submitted"] = "auto-generated"
    if mailing.unsubscribe:
        url = one_line(texts["unsubscribe"]).replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")
        message["List-Unsubscribe"] = f"<{url}>"
        if url.startswith("https:"):
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(_NOT_IN_TEXT.sub(" ", texts["template"]))
    if "html" in texts:
        message.add_alternative(_NOT_IN_TEXT.sub(" ", texts["html"]), subtype="html")
        message.set_boundary(f"=={identity[1:33]}")
    return message.as_bytes()
