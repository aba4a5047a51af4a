"""The SMTP server that sends messages, its answer to each, and the addresses that it takes."""

import re
import smtplib
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from forecache.base.errors import SettingsError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.kit.process.periodic import Backoff

_TRIES, _BACKOFF = 3, Backoff(1.0)
_LOCAL = ("localhost", "127.0.0.1", "::1")
_ADDRESS_IN_TEXT = re.compile(r"[^\s<>@]+@[^\s<>@]+")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class ServerAnswer:
    state: Literal["accepted", "refused", "deferred", "in doubt"]
    code: int
    reason: str


class Relay:
    """A connection to the SMTP server of the settings, opened on first use and again if it was lost."""

    def __init__(self, settings: Settings, *, tries: int = _TRIES) -> None:
        settings.refuse_in_trial("send mail")
        if not settings.smtp_host:
            raise SettingsError("No SMTP server is set.", remedy="Set FORECACHE_SMTP_HOST, or add --dry-run.")
        self._settings, self._tries = settings, tries
        if settings.smtp_password and settings.smtp_security == "none" and settings.smtp_host not in _LOCAL:
            message = "FORECACHE_SMTP_PASSWORD would go over the network as it is: FORECACHE_SMTP_SECURITY is none."
            raise SettingsError(message, remedy="Set FORECACHE_SMTP_SECURITY to starttls or ssl.")
        self._server: smtplib.SMTP | None = None

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None and error is None:
            with suppress(OSError, smtplib.SMTPException):
                self._server.quit()
        self._close()

    def check(self) -> None:
        """Connect and log in, and send nothing."""
        self._connection()

    def send(self, sender: str, address: str, content: bytes, *, last_byte: Callable[[], None]) -> ServerAnswer:
        """Hand over one message, whose lines end in CRLF; raises UnavailableError if the server refuses this sender.

        `last_byte` is called before the last byte is sent: only then may the server deliver (RFC 5321, 4.1.1.4).
        """
        server, at_last = self._connection(), False
        try:
            code, text = server.mail(sender)
            if code != 250:
                raise self._unavailable(f"refuses messages from {sender}", code, text)
            code, text = server.rcpt(address)
            if code not in (250, 251):
                return self._answer(code, text)
            code, text = server.docmd("DATA")
            if code != 354:
                return self._answer(code, text)
            last_byte()
            at_last = True
            server.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
            mail_step("sent")
            code, text = server.getreply()
            mail_step("answered")
        except (OSError, smtplib.SMTPException) as error:
            self._close()
            reason = f"The connection was lost: {self._without_addresses(str(error))}"
            return ServerAnswer("in doubt" if at_last else "deferred", 0, reason)
        return self._answer(code, text)

    def _answer(self, code: int, text: bytes) -> ServerAnswer:
        """Translate an SMTP code: 2xx is accepted, 5xx is refused for ever, anything else is tried again later."""
        if code == 421:
            self._close()
        elif code != 250 and self._server is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._server.rset()
        words = self._without_addresses(text.decode(errors="replace"))
        return ServerAnswer("accepted" if 200 <= code < 300 else "refused" if code >= 500 else "deferred", code, words)

    def _connection(self) -> smtplib.SMTP:
        """The open connection; connects if there is none, in up to `tries` attempts."""
        for attempt in range(self._tries):
            if self._server is not None:
                return self._server
            try:
                self._server = self._connect()
            except (smtplib.SMTPAuthenticationError, smtplib.SMTPNotSupportedError, ssl.SSLError) as error:
                raise self._unreachable(error) from None
            except (OSError, smtplib.SMTPException) as error:
                if attempt == self._tries - 1:
                    raise self._unreachable(error) from None
                time.sleep(_BACKOFF.pause_s(attempt + 1))
        assert self._server is not None
        return self._server

    def _connect(self) -> smtplib.SMTP:
        host, port, security = self._settings.smtp_host, self._settings.smtp_port, self._settings.smtp_security
        timeout, context = self._settings.smtp_timeout_s, ssl.create_default_context()
        if security == "ssl":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=timeout, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=timeout)
        try:
            if security == "starttls":
                server.starttls(context=context)
            server.ehlo_or_helo_if_needed()
            if self._settings.smtp_user:
                server.login(self._settings.smtp_user, self._settings.smtp_password)
        except BaseException:
            server.close()
            raise
        return server

    def _unreachable(self, error: Exception) -> UnavailableError:
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return self._unavailable("refuses FORECACHE_SMTP_USER and its password", error.smtp_code, b"")
        if isinstance(error, smtplib.SMTPResponseException):
            return self._unavailable("does not take connections", error.smtp_code, error.smtp_error)
        remedy = "Check the FORECACHE_SMTP_ settings."
        return UnavailableError(f"The SMTP server {self._host_and_port} cannot be used: {error}.", remedy=remedy)

    def _unavailable(self, what: str, code: int, text: bytes | str) -> UnavailableError:
        self._close()
        words = text if isinstance(text, str) else text.decode(errors="replace")
        message = f"The SMTP server {self._host_and_port} {what} ({code}{f' {words}' if words else ''})."
        return UnavailableError(message, remedy="Nothing of this message was sent: mend that and run again.")

    @property
    def _host_and_port(self) -> str:
        return f"{self._settings.smtp_host}:{self._settings.smtp_port}"

    @staticmethod
    def _without_addresses(text: str) -> str:
        return " ".join(_ADDRESS_IN_TEXT.sub("(address)", text).split())

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def one_line(text: object) -> str:
    return _CONTROL.sub(" ", str(text)).strip()


def is_address(text: str) -> bool:
    """True for an address that any SMTP server takes: ASCII, without quotes (RFC 5321, 4.1.2 and 4.5.3.1)."""
    return len(text) <= 254 and text.find("@") <= 64 and _ADDRESS.fullmatch(text) is not None


def usable_address(text: str | None) -> str:
    """The address as SMTP takes it, its domain in ASCII (IDNA); "" if it is not valid."""
    local, _, domain = (text or "").strip().rpartition("@")
    try:
        found = f"{local}@{domain if domain.isascii() else domain.encode('idna').decode()}"
    except UnicodeError:
        return ""
    return found if is_address(found) else ""
