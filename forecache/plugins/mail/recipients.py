"""Current addresses and opt-outs of a mailing."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Source, TableSource
from forecache.declare.mailings.mailing import Mailing
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_existing, open_table
from forecache.kit.smtp import usable_address
from forecache.lake.ingest.ingested_files import delivered_days, ingested_files, pending_files, state_file
from forecache.lake.sources import Pins, state_rows
from forecache.plugins.mail.message import Recipient

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


class Recipients:
    """The users that a mailing may send to; `refresh` reads their table again if it has changed."""

    def __init__(self, settings: Settings, mailing: Mailing) -> None:
        self._settings, self._mailing = settings, mailing
        self._state = ""
        self._rows: dict[str, Mapping[str, Any]] = {}

    def refresh(self) -> None:
        """Read the addresses if their table has a newer version.

        Raises:
            NotFoundError: The table does not exist.
            InputError: A column is missing or has another type, a user occurs twice, or files of the source are not
                ingested yet or are in quarantine: an opt-out may be in them.
        """
        source = self._mailing.addresses
        if isinstance(source, TableSource):
            self._refresh_existing(source)
            return
        if isinstance(source, Source):
            _require_read(self._settings, source)
        delta = _open(self._settings, source)
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
        address = usable_address(row[self._mailing.address])
        return (
            Recipient(user, address, {name: row[name] for name in self._mailing.personal_columns}) if address else None
        )


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


def _open(settings: Settings, source: Source | str) -> "DeltaTable":
    if isinstance(source, Source):
        return open_table(settings, source.raw_table)
    return open_existing(settings, source, what="The address table")


def _read(settings: Settings, mailing: Mailing, delta: "DeltaTable") -> dict[str, Mapping[str, Any]]:
    """The mailing's columns of each user, by the user's key as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

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
        ("text, a whole number or a date", mailing.user, _is_key),
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


def _sort_by_time(mailing: Mailing, rows: "pa.Table", time: str) -> "pa.Table":
    """Sort by time, rows without one first; of rows with equal times, opt-outs and empty cells come last."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_timed = pc.is_valid(rows[time])
    parts = (rows.filter(pc.invert(is_timed)), rows.filter(is_timed))
    return pa.concat_tables([part.sort_by([(time, "ascending"), (mailing.opted_out, "ascending")]) for part in parts])


def _index_by_user(mailing: Mailing, rows: "pa.Table", where: str, is_ordered: bool) -> dict[str, Mapping[str, Any]]:
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


def key_texts(column: "pa.ChunkedArray") -> list[str]:
    """Keys as texts, as the ledger and messages have them."""
    import pyarrow as pa

    return list(map(str, column.cast(pa.string()).to_pylist()))


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_key(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_date(kind)
