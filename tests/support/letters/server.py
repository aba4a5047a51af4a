"""An SMTP server that records what it accepts, as a process of its own runs it.

What it does with a message depends on the address: `refused...` 550, `later...` 451, `large...` 552 after the data,
`lost...` closes the connection after the data without an answer, `taken...` the same, but it has accepted the message.
Options: {"most": n} answers 421 to every message after n, {"user": ..., "password": ...} asks for a login,
{"certificate": ..., "key": ..., "implicit": true} has TLS, {"greeting": false} closes every connection.
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

FOLDER, OPTIONS = Path(), dict[str, Any]()
"""Of the process, as it was told."""


class Handler:
    """Answers by address, and records."""

    num_accepted = 0
    once: set[str] = set()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.num_accepted >= OPTIONS.get("most", sys.maxsize):
            return "421 4.3.2 closing"
        if OPTIONS.get("no_sender"):
            return "553 5.7.1 not from you"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return f"550 5.1.1 <{address}> no such user"
        if address.startswith("later"):
            return "451 4.7.1 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        address = envelope.rcpt_tos[0]
        assert len(envelope.rcpt_tos) == 1
        if address.startswith("large"):
            return "552 5.3.4 too large"
        if address.startswith("lost") and address not in self.once:
            self.once.add(address)
            server.transport.abort()
            return "250 never sent"
        self.record(envelope.original_content, address)
        if address.startswith("taken") and address not in self.once:
            self.once.add(address)
            server.transport.abort()
        return "250 2.0.0 queued"

    def record(self, content: bytes, address: str) -> None:
        number = len(list(FOLDER.glob("*.eml")))
        path = FOLDER / f"{number:06d}.eml"
        path.with_suffix(".part").write_bytes(b"X-Envelope-To: " + address.encode() + b"\r\n" + content)
        os.replace(path.with_suffix(".part"), path)
        type(self).num_accepted += 1


def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == (
        OPTIONS["user"],
        OPTIONS["password"],
    )
    return AuthResult(success=right, handled=False)


def serve(folder: Path, options: dict[str, Any], told: Any) -> None:
    """Serve, and tell the port."""
    global FOLDER
    FOLDER = folder
    OPTIONS.update(options)
    asyncio.run(_serve(told))


async def _serve(told: Any) -> None:
    context = None
    if "certificate" in OPTIONS:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(OPTIONS["certificate"], OPTIONS["key"])
    implicit = OPTIONS.get("implicit", False)
    login_asked = "user" in OPTIONS
    handler = Handler()

    def connection() -> SMTP:
        return SMTP(
            handler,
            tls_context=None if implicit else context,
            require_starttls=context is not None and not implicit,
            authenticator=login if login_asked else None,
            auth_required=login_asked,
            auth_require_tls=context is not None and not implicit,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "127.0.0.1", 0, ssl=context if implicit else None)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
