"""Selection of the users of a mailing that get a message now, their order, and the rows published for them."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.plugins.mail.mailing import Mailing
from forecache.plugins.mail.recipients import Recipients, key_texts
from forecache.serve.store import Manifest, open_store

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset


@dataclass(frozen=True)
class PublishedVersion:
    """The store version that is current, as rows of the pipeline's prediction table.

    Attributes:
        users: Each user's key by its text.
        fields: The columns for templates.
    """

    manifest: Manifest
    as_of: date
    users: Mapping[str, Any]
    fields: tuple[str, ...]
    table: "Dataset"

    def read_rows(self, users: Sequence[str]) -> "PublishedRows":
        """The rows that were published for some users."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        key = self.fields[0]
        wanted = pa.array([self.users[user] for user in users], self.table.schema.field(key).type)
        rows = self.table.to_table([*self.fields], (ds.field(AS_OF) == self.as_of) & ds.field(key).isin(wanted))
        return PublishedRows(self.as_of, rows, {user: number for number, user in enumerate(key_texts(rows[key]))})


@dataclass(frozen=True)
class PublishedRows:
    """Rows that were published for some users; `positions` has the row number of each user."""

    as_of: date
    rows: "pa.Table"
    positions: Mapping[str, int]

    def __getitem__(self, user: str) -> dict[str, Any]:
        """The key, `as_of` and the served fields of a user."""
        row: dict[str, Any] = self.rows.slice(self.positions[user], 1).to_pylist()[0]
        return row | {AS_OF: self.as_of}


def open_published(settings: Settings, mailing: Mailing) -> PublishedVersion:
    """Open the current version of the mailing's pipeline.

    Raises:
        NotFoundError: Nothing is published, or the lake no longer has its rows.
    """
    import pyarrow.dataset as ds

    pipeline = mailing.pipeline
    manifest = open_store(settings, pipeline.name).current()
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
    """The users that get a message now, and figures about the others.

    Attributes:
        users: In the order of sending.
        waiting: Number of users that could get a message and are beyond the limit.
        opted_out, without_address: Number of users of the published version that get no message for this reason.
        unusable: Users whose address is not a valid one.
    """

    users: tuple[str, ...]
    waiting: int
    opted_out: int
    without_address: int
    unusable: tuple[str, ...]


def choose(
    found: PublishedVersion, recipients: Recipients, *, done: Collection[str], last: Collection[str], budget: int
) -> MailSelection:
    """Select the next users, ordered by a hash of as-of date and key, so that the last ones differ from day to day.

    Args:
        done: Users who need no message of this date any more.
        last: Users who come after all others, because an earlier attempt for them failed.
        budget: Most users.
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
