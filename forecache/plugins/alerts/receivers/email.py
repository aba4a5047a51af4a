"""Sends alerts by e-mail through the SMTP server of mailings; each address is a receiver of its own."""

from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr

from forecache.base.errors import ForecacheError
from forecache.base.posting import PostFailure
from forecache.base.settings import Settings
from forecache.kit.smtp import Relay, one_line
from forecache.plugins.alerts.message import Message

_SUBJECT = 150


class Email:
    """Sends each message to one address, with the message's id in its Message-ID, by which servers may drop copies."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings, self._address = settings, address
        self.name = f"email {address}"

    def send(self, message: Message) -> PostFailure | None:
        sender = self._settings.alert_email_from
        content = email_content(message, sender=sender, address=self._address)
        impatient = self._settings.model_copy(
            update={"smtp_timeout_s": min(self._settings.smtp_timeout_s, self._settings.alert_timeout_s)}
        )
        try:
            with Relay(impatient, tries=1) as relay:
                answer = relay.send(parseaddr(sender)[1], self._address, content, last_byte=lambda: None)
        except ForecacheError as error:
            return PostFailure(str(error))
        if answer.state == "accepted":
            return None
        return PostFailure(
            f"The SMTP server answered {answer.code}: {answer.reason}", refused=answer.state == "refused"
        )


def email_content(message: Message, *, sender: str, address: str) -> bytes:
    """A plain text, lines ending in CRLF."""
    name, sender_address = parseaddr(sender)
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(one_line(name), addr_spec=sender_address)
    mail["To"] = Address(addr_spec=address)
    mail["Subject"] = one_line(message.subject)[:_SUBJECT]
    mail["Date"] = format_datetime(message.made_at)
    mail["Message-ID"] = f"<{message.id}@{sender_address.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"{group.title}\n{group.text}\n" for group in message.named_groups]
    lines += [f"{message.remainder_text}\n"] if message.remainder_text else []
    mail.set_content("\n".join(lines))
    return mail.as_bytes()
