"""Bearer tokens: created, listed and revoked in one file, which has their hashes and never the tokens.

A token is `fct_<id>_<secret>`. The secret has 256 random bits, so that one SHA-256 is enough to protect it at rest
(slow hashes protect passwords that people choose). The file is JSON, readable by its owner alone, and replaced
atomically, so that a reader that watches it never sees half of it.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from forecache.base.errors import InputError, NotFoundError, SettingsError
from forecache.base.files import lock, write_durably
from forecache.base.table_names import NAME

ALL = "*"
METRICS = "+metrics"
"""Scope that opens `/metrics` and `/status`; `*` opens them too."""

_OWNER_ONLY = 0o600


@dataclass(frozen=True)
class TokenRecord:
    """A token's entry in the file; times are ISO 8601, UTC."""

    id: str  # twelve hex digits, part of the token, by which it is listed and revoked
    name: str  # of who uses it
    scopes: tuple[str, ...]  # names of pipelines, `*` for all, `+metrics` for metrics and status
    created_at: str
    expires_at: str  # "" if it does not expire
    sha256: str  # of the whole token

    def covers(self, scope: str) -> bool:
        return scope in self.scopes or ALL in self.scopes

    @property
    def expires(self) -> float:
        """Unix time from which the token is refused; infinity if it does not expire."""
        return _parse_time(self.expires_at).timestamp() if self.expires_at else float("inf")


class Tokens:
    """The tokens of a file as it was read."""

    def __init__(self, records: Sequence[TokenRecord]) -> None:
        self.records = tuple(records)
        self._by_id = {record.id: (bytes.fromhex(record.sha256), record.expires, record) for record in records}

    def find(self, token: str, now: float) -> TokenRecord | None:
        """The record of a presented token, None if it is unknown, revoked or expired; compares in constant time."""
        entry = self._by_id.get(token[4:16])
        if entry is None:
            return None
        digest, expires, record = entry
        given = hashlib.sha256(token.encode()).digest()
        return record if hmac.compare_digest(given, digest) and now < expires else None


def load_tokens(path: Path) -> Tokens:
    """Read a token file; raises SettingsError if it is missing or is not a token file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = "Create a token with `forecache tokens create`, or unset FORECACHE_READER_TOKENS."
        raise SettingsError(f"The token file {path} cannot be read: {error.strerror}.", remedy=remedy) from None
    try:
        return Tokens([_read_record(item) for item in json.loads(content)["tokens"]])
    except (ValueError, KeyError, TypeError) as error:
        message = f"The file {path} is not a token file: {type(error).__name__}: {error}."
        raise SettingsError(message, remedy="Restore it, or move it away and create the tokens again.") from None


def create_token(
    path: Path, name: str, scopes: Sequence[str], *, expires_days: float | None = None
) -> tuple[str, TokenRecord]:
    """Add a token to the file, which is created if it is missing.

    Returns:
        The token, which is shown only this once, and its record.

    Raises:
        InputError: A scope is not a pipeline name, `*` or `+metrics`; or the name is empty.
    """
    if not name.strip() or len(name) > 100:
        raise InputError(f"The token name {name!r} is not usable.", remedy="Name who uses it, in 1 to 100 characters.")
    wrong = [scope for scope in scopes if scope not in (ALL, METRICS) and not NAME.fullmatch(scope)]
    if wrong or not scopes:
        message = f"The token scope {wrong[0]!r} is not usable." if wrong else "The token has no scope."
        raise InputError(message, remedy="Give pipeline names, '*' for every pipeline, or '+metrics'.")
    created = datetime.now(timezone.utc)
    token_id = secrets.token_hex(6)
    token = f"fct_{token_id}_{secrets.token_urlsafe(32)}"
    record = TokenRecord(
        id=token_id,
        name=name.strip(),
        scopes=tuple(scopes),
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        expires_at=(created + timedelta(days=expires_days)).strftime("%Y-%m-%dT%H:%M:%SZ") if expires_days else "",
        sha256=hashlib.sha256(token.encode()).hexdigest(),
    )
    _change_tokens(path, lambda records: [*records, record])
    return token, record


def list_tokens(path: Path) -> tuple[TokenRecord, ...]:
    """Every token of the file in order of creation; none if there is no file yet."""
    return load_tokens(path).records if path.exists() else ()


def revoke_token(path: Path, token_id: str) -> TokenRecord:
    """Remove a token; running readers refuse it within about a second.

    Raises:
        NotFoundError: The file has no token with that id.
    """
    revoked: list[TokenRecord] = []

    def remove_revoked(records: list[TokenRecord]) -> list[TokenRecord]:
        revoked.extend(record for record in records if record.id == token_id)
        if not revoked:
            known = ", ".join(record.id for record in records) or "none"
            raise NotFoundError(f"There is no token {token_id!r} in {path}.", remedy=f"It has: {known}.")
        return [record for record in records if record.id != token_id]

    _change_tokens(path, remove_revoked)
    return revoked[0]


def _read_record(item: dict[str, object]) -> TokenRecord:
    scopes = item["scopes"]
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ValueError("scopes must be a list of strings")
    texts = {name: str(item[name]) for name in ("id", "name", "created_at", "expires_at", "sha256")}
    if len(bytes.fromhex(texts["sha256"])) != 32:
        raise ValueError("sha256 must have 64 hex digits")
    record = TokenRecord(scopes=tuple(scopes), **texts)
    assert record.expires > 0  # an invalid expiry is a ValueError here and not at a request
    return record


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _change_tokens(path: Path, change: Callable[[list[TokenRecord]], list[TokenRecord]]) -> None:
    with lock(path.with_name(f".{path.name}.lock"), mode=_OWNER_ONLY):
        records = change(list(list_tokens(path)))
        content = json.dumps({"tokens": [asdict(record) for record in records]}, indent=1) + "\n"
        write_durably(path, content, mode=_OWNER_ONLY)
