"""Current addresses and opt-outs of a mailing."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.types import is_date, is_integer

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Source, TableSource
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_existing, open_table
from forecache.kit.smtp import usable_address
from forecache.lake.ingest.ingested_files import delivered_days, ingested_files, pending_files, state_file
from forecache.lake.sources import Pins, state_rows
from forecache.plugins.mail.mailing import Mailing
from forecache.serve.store import Manifest
from forecache.serve.store.remote_store import list_served_manifests

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class Recipient:
    user: str  # key, as text
    address: str
    fields: Mapping[str, Any]  # of the addresses' columns, those for the templates


class Recipients:
    """The users that a mailing may send to; `refresh` reads their table again if it has changed."""

    def __init__(self, settings: Settings, mailing: Mailing) -> None:
        self._settings, self._mailing = settings, mailing
        self._state = ""
        self._rows: dict[str, Mapping[str, Any]] = {}

    def refresh(self) -> None:
        source = self._mailing.addresses
        if isinstance(source, TableSource):
            self._refresh_existing(source)
            return
        if isinstance(source, Source):
            _require_read(self._settings, source)
            delta = open_table(self._settings, source.raw_table)
        else:
            delta = open_existing(self._settings, source, what="The address table")
        state = f"{delta.metadata().id} {delta.version()}"  # a table that was created again starts at version 0
        if state != self._state:
            self._rows = _read(self._settings, self._mailing, delta)
            self._state = state

    def _refresh_existing(self, source: TableSource) -> None:
        mailing, today = self._mailing, datetime.now(timezone.utc).date()
        pins = Pins(self._settings)
        pinned = pins.pin(source)
        state = pinned.state(today)
        if state == self._state:
            return
        time = source.event_time
        columns = list(dict.fromkeys((*mailing.columns, *([time] if time else []))))
        rows = state_rows(self._settings, source, today, columns, pins=pins)
        if rows is None:
            raise InputError(
                f"Source {source.name!r} cannot be read: {pinned.place.uri} has no state of {today} or before.",
                remedy="Write it, and run again.",
            )
        rows = rows.filter(rows[mailing.user].is_valid())
        self._rows = _index_by_user(
            mailing, _sort_by_time(mailing, rows, time) if time else rows, source.name, bool(time)
        )
        self._state = state

    def opted_out(self, user: str) -> bool:
        """True if a user wants no mail; an empty cell counts as an opt-out."""
        return user in self._rows and self._rows[user][self._mailing.opted_out] is not False

    def __contains__(self, user: str) -> bool:
        return user in self._rows

    def recipient(self, user: str) -> Recipient | None:
        """The recipient of a user's message; None without a usable address."""
        row = self._rows.get(user)
        if row is None:
            return None
        fields = {name: row[name] for name in self._mailing.personal_columns}
        address = usable_address(row[self._mailing.address])
        return Recipient(user, address, fields) if address else None


def _require_read(settings: Settings, source: Source) -> None:
    today = datetime.now(timezone.utc).date()
    files = ingested_files(settings, source)
    # Of a day that is not over yet, nothing is ingested.
    waiting = [file for file in pending_files(settings, source) if file.day is None or file.day < today]
    if waiting:
        raise InputError(
            f"The landing file {waiting[0].name!r} of source {source.name!r} has not been ingested, and may hold an "
            "opt-out.",
            remedy=f"Run `forecache ingest`, or switch on the sensor {source.name}_landed.",
        )
    newest = max(delivered_days(files), default=None)
    for file in files:
        if file.error and (newest is None or file.event_day is None or file.event_day >= newest):
            raise InputError(
                f"The landing file {file.file!r} of source {source.name!r} is in quarantine, and may hold an opt-out: "
                f"{file.error}.",
                remedy="Land a corrected file for a later day.",
            )


def _read(settings: Settings, mailing: Mailing, delta: "DeltaTable") -> dict[str, Mapping[str, Any]]:
    dataset, source = open_dataset(delta), mailing.addresses
    assert not isinstance(source, TableSource)
    where = source.name if isinstance(source, Source) else source
    for name in mailing.columns:
        if name not in dataset.schema.names:
            raise InputError(
                f"The addresses of mailing {mailing.name!r}, {where}, have no column {name!r}.",
                remedy=f"They have {', '.join(dataset.schema.names)}.",
            )
    for what, name, fits in (
        ("boolean", mailing.opted_out, pa.types.is_boolean),
        ("text", mailing.address, _is_text),
        ("text, a whole number or a date", mailing.user, lambda of: _is_text(of) or is_integer(of) or is_date(of)),
    ):
        kind = dataset.schema.field(name).type
        if not fits(kind):
            raise InputError(
                f"The column {name!r} of {where}, the addresses of mailing {mailing.name!r}, is {kind}.",
                remedy=f"It has to be a {what}.",
            )
    order: Sequence[str] = ()
    chosen = pc.field(mailing.user).is_valid()
    if isinstance(source, Source) and source.time is None:
        order = tuple(dict.fromkeys((source.event_time, "event_day", "ingested_at", "source_file", "source_line")))
    elif isinstance(source, Source):
        state = state_file(source, ingested_files(settings, source), date.max)
        assert state is not None  # the table has rows, which are of some file
        chosen &= (pc.field("event_day") == state.event_day) & (pc.field("source_file") == state.file)
    rows = dataset.to_table(list(dict.fromkeys((*mailing.columns, *order))), chosen)
    if order:
        rows = rows.sort_by([(name, "ascending") for name in order])
    return _index_by_user(mailing, rows, where, bool(order))


def _sort_by_time(mailing: Mailing, rows: pa.Table, time: str) -> pa.Table:
    """Sort by time, rows without one first; of rows with equal times, opt-outs and empty cells come last."""
    is_timed = pc.is_valid(rows[time])
    parts = (rows.filter(pc.invert(is_timed)), rows.filter(is_timed))
    return pa.concat_tables([part.sort_by([(time, "ascending"), (mailing.opted_out, "ascending")]) for part in parts])


def _index_by_user(mailing: Mailing, rows: pa.Table, where: str, is_ordered: bool) -> dict[str, Mapping[str, Any]]:
    """The last row of each user, by key as text; rows without an order may have only one per user."""
    users = key_texts(rows[mailing.user])
    found = dict(zip(users, rows.select(mailing.columns).to_pylist(), strict=True))
    if not is_ordered and len(found) != len(users):
        seen: set[str] = set()
        twice = next(user for user in users if user in seen or seen.add(user))  # type: ignore[func-returns-value]
        raise InputError(
            f"{where}, the addresses of mailing {mailing.name!r}, has the user {twice!r} twice.",
            remedy="It needs one row for each user.",
        )
    return found


def key_texts(column: pa.ChunkedArray) -> list[str]:
    """Keys as texts, as the ledger and messages have them."""
    return list(map(str, column.cast(pa.string()).to_pylist()))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


@dataclass(frozen=True)
class PublishedVersion:
    """The store version that is current, as rows of the pipeline's prediction table."""

    manifest: Manifest
    as_of: date
    users: Mapping[str, Any]  # each user's key by its text
    fields: tuple[str, ...]  # the columns for templates
    table: ds.Dataset

    def read_rows(self, users: Sequence[str]) -> "PublishedRows":
        key = self.fields[0]
        wanted = pa.array([self.users[user] for user in users], self.table.schema.field(key).type)
        rows = self.table.to_table([*self.fields], (ds.field(AS_OF) == self.as_of) & ds.field(key).isin(wanted))
        return PublishedRows(self.as_of, rows, {user: number for number, user in enumerate(key_texts(rows[key]))})


@dataclass(frozen=True)
class PublishedRows:
    """Rows that were published for some users; `positions` has the row number of each user."""

    as_of: date
    rows: pa.Table
    positions: Mapping[str, int]

    def __getitem__(self, user: str) -> dict[str, Any]:
        """The key, `as_of` and the served fields of a user."""
        row: dict[str, Any] = self.rows.slice(self.positions[user], 1).to_pylist()[0]
        return row | {AS_OF: self.as_of}


def open_published(settings: Settings, mailing: Mailing) -> PublishedVersion:
    pipeline = mailing.pipeline
    manifest = next(iter(list_served_manifests(settings, [pipeline.name])), None)
    if manifest is None:
        raise NotFoundError(
            f"Nothing is published for {pipeline.name}.",
            remedy=f"`forecache run {pipeline.name}` makes and publishes it.",
        )
    as_of, [key] = date.fromisoformat(manifest.as_of), pipeline.key
    table = open_dataset(open_table(settings, manifest.source.table, version=manifest.source.delta_version))
    keys = table.to_table([key], ds.field(AS_OF) == as_of)[key]
    users = dict(zip(key_texts(keys), keys.to_pylist(), strict=True))
    return PublishedVersion(manifest, as_of, users, (key, *pipeline.served_fields), table)


@dataclass(frozen=True)
class MailSelection:
    users: tuple[str, ...]  # in the order of sending
    waiting: int  # number of users that could get a message and are beyond the limit
    opted_out: int  # number of users of the published version that get no message for this reason
    without_address: int
    unusable: tuple[str, ...]  # users whose address is not a valid one


def choose(
    found: PublishedVersion, recipients: Recipients, *, done: Collection[str], last: Collection[str], budget: int
) -> MailSelection:
    """Select at most `budget` users but `done` ones, by a hash of as-of date and key: the last differ from day to day.

    The users of `last` come after all others, because an earlier attempt for them failed.
    """
    open_, opted_out, without, unusable = [], 0, 0, []
    for user in found.users:
        if user in done:
            continue
        if user not in recipients:
            without += 1
        elif recipients.opted_out(user):
            opted_out += 1
        elif recipients.recipient(user) is None:
            unusable.append(user)
        else:
            open_.append(user)
    open_.sort(key=lambda user: (user in last, sending_order(found.as_of, user)))
    users = tuple(open_[: max(0, budget)])
    return MailSelection(users, len(open_) - len(users), opted_out, without, tuple(unusable))


def sending_order(as_of: date, user: str) -> bytes:
    """Sort key of a user in the order of an as-of date."""
    return hashlib.sha256(f"{as_of}\0{user}".encode()).digest()
