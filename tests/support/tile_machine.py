"""A stream that takes in payments as the engines do, with its file of tiles, and that may stop or die anywhere."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import pyarrow as pa
from stream_sample import CUSTOMER, DAY, EmptyNight, a_stream, messages, payment

from forecache.base.settings import Settings
from forecache.declare import FeatureView, Live, Publish, Stream, Table, Window
from forecache.kit.windows.tiles import TileCodec
from forecache.stream.engine.restore_state import rebuild_state, tile_saver
from forecache.stream.step import StepResult, StreamStep
from forecache.stream.table.schema import QUARANTINE
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.tiles.view_tiles import ViewTiles

SHOP = FeatureView(
    "shop",
    ("shop",),
    CUSTOMER.sources,
    windows=(
        Window("last_2d", "last", 2, "amount"),
        Window("times_2d", "count", 2),
        Window("times_1h", "count", minutes=60),
    ),
    publish=Publish(),
    live=Live(nights=3, tile_minutes=15),
)
MIDNIGHT = datetime(DAY.year, DAY.month, DAY.day, tzinfo=timezone.utc)


def payments_stream(*views: FeatureView) -> Stream:
    return a_stream(answers=None, to=(Table(),), views=views or (CUSTOMER, SHOP))


def random_payments(count: int, generator: random.Random) -> list[bytes]:
    """Payments over five days: most in time, some days late, some sent twice."""
    found: list[bytes] = []
    for number in range(count):
        late = generator.choice((0, 0, 0, 0, 3, 40, 400, 1441, 3000, 9000))
        at = MIDNIGHT + timedelta(minutes=5 * 1440 * number / count - late + generator.random())
        values = {"customer_id": generator.randrange(40), "shop": generator.choice(("a", "b", None))}
        found.append(payment(number, at=at.isoformat().replace("+00:00", "Z"), **values))
        if generator.random() < 0.1:
            found.append(generator.choice(found))
    return found


class Machine:
    """
    Attributes:
        night: That the views stand on; it may be replaced.
        read: How many rows were read for tiles at the start.
    """

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        values: Sequence[bytes],
        *,
        as_of: date | None = None,
        commits: int = 2,
    ) -> None:
        self.night = EmptyNight() if as_of is None else replace(EmptyNight(), as_of=as_of)
        self._values = values
        self.step = StreamStep(settings, stream, bases=lambda view: self.night)
        self.writer = StreamWriter(settings, stream)
        self.tiles = tile_saver(settings, stream, self.step.views, commits=commits)
        self.read, _ = rebuild_state(settings, stream, self.step, self.tiles)
        self.next = self.writer.offsets.get(0, 0)
        self._held: list[StepResult] = []
        self._given: deque[tuple[pa.Table, int]] = deque()

    @property
    def is_done(self) -> bool:
        return self.next == len(self._values) and not self._held and not self._given

    def answer(self, count: int) -> None:
        part = self._values[self.next : self.next + count]
        if part:
            self._held.append(self.step.run(messages(part, first=self.next)))
            self.next += len(part)

    def hand_over(self) -> None:
        if self._held:
            self._given.append((pa.concat_tables([each.rows for each in self._held]), self.next))
            self.tiles.note_submitted(each.live for each in self._held)
            self._held = []

    def commit(self) -> None:
        if self._given:
            rows, upto = self._given.popleft()
            version = self.writer.write(CommitBatch(rows, QUARANTINE.empty_table(), {0: upto}))
            self.step.repeats.confirm_commit(rows, version)
            self.tiles.confirm_commit(rows, version)

    def look(self) -> None:
        self.tiles.update(holds=bool(self._held))

    def take_in(self, upto: int, *, count: int = 10) -> None:
        """Everything up to an offset, a commit each `count`, and the file as far as it is due."""
        while self.next < upto:
            self.answer(min(count, upto - self.next))
            self.hand_over()
            self.commit()
            self.look()

    def stop(self) -> None:
        """As the end of an engine that was told to stop."""
        self.hand_over()
        while self._given:
            self.commit()
        self.tiles.finish()
        self.close()

    def close(self) -> None:
        """As the end of one that failed: what was not committed is lost."""
        self.tiles.close()
        self.step.repeats.close()

    def held(self) -> dict[str, dict[bytes, bytes]]:
        """By view, the tiles of each key."""
        return {name: dict(view.entries) for name, view in self.step.views.items()}

    def needed(self) -> dict[str, dict[bytes, bytes]]:
        """As `held`, without tiles of days that the night does not need, which no start makes again."""
        return {name: _needed(view) for name, view in self.step.views.items()}


def _needed(view: ViewTiles) -> dict[bytes, bytes]:
    keys = list(view.entries)
    kept = TileCodec(view.plan).drop_before([view.entries[key] for key in keys], view.complete_from)
    return {key: entry for key, entry in zip(keys, kept, strict=True) if entry is not None}


def from_rows(settings: Settings, stream: Stream, as_of: date) -> dict[str, dict[bytes, bytes]]:
    """What a start without any file makes from the rows of the table."""
    step = StreamStep(settings, stream, bases=lambda view: replace(EmptyNight(), as_of=as_of))
    rebuild_state(settings, stream, step)
    step.repeats.close()
    return {name: dict(view.entries) for name, view in step.views.items()}


STREAM = payments_stream()
NIGHT = DAY - timedelta(days=1)
VALUES = random_payments(200, random.Random(3))


def took_in(settings: Settings, upto: int = 100, *, as_of: date = NIGHT, stream: Stream = STREAM) -> Machine:
    """A stream that has taken in events, and stopped with a file of all of them."""
    machine = Machine(settings, stream, VALUES, as_of=as_of, commits=1)
    machine.take_in(upto)
    machine.look()
    machine.stop()
    return machine
