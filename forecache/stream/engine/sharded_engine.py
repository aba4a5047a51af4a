"""Runs the shards of a stream that fall to this process, each with an engine of its own in a thread.

Any number of processes run one stream, on any machines. Each holds a lease `streams/<name>.shards/engine-<number>`, and
all look at these: shard i falls to the i-th process that renews its lease, counted round. A process that loses a shard
commits what it has answered and releases the shard's lease; the one that gains it waits for that, or for the lease's
term, and goes on at the offsets in the table. So two processes that see different others for a while wait for each
other, and the table refuses the commit of one that stood still.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import Any

from forecache.base.errors import ConflictError, DamagedError, ForecacheError, UnavailableError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.installation import open_lake
from forecache.kit.lease import TERM_S, Lease, LeaseLostError, hold_free_lease, read_leases, release_for
from forecache.kit.process.periodic import Backoff
from forecache.kit.process.wakes import STREAM_SHARDS
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.engine.engine import follow_views, hold_shards
from forecache.stream.engine.pending_rows import OrphanedPendingRows
from forecache.stream.kafka.consumer import open_topic
from forecache.stream.state import STATE, lease_name, merge_states, open_stream_state, read_shared_state, write_state
from forecache.stream.table.schema import QUARANTINE, Shard, schema_of, shards_of
from forecache.stream.table.writer import CommitBatch, StreamWriter

logger = logging.getLogger("forecache.stream")
_PATIENCE_S = 10.0
_ENGINE = "/engine-"
_MOST_APART_S = 3 * STREAM_SHARDS.every_s
"""Most seconds between two looks that count: in a longer time perhaps nobody reached the lake to renew a lease."""
_BACKOFF = Backoff(0.5, 10.0)


class EngineProcesses:
    """The processes that run one stream, as this one sees them; it is one of them until it is closed."""

    def __init__(self, settings: Settings, stream: str) -> None:
        self._folder = open_lake(settings, patience_s=_PATIENCE_S)
        self._below = f"{lease_name(stream)}.shards"
        self._held = ExitStack()
        self._seen: dict[str, tuple[Any, float]] = {}  # by lease, its last renewal, and `_watched_s` when it was seen
        self._looked_at, self._watched_s = time.monotonic(), 0.0
        self._join()

    def read_numbers(self) -> tuple[int, list[int]]:
        """Read which processes renew their leases: the number of this one, and those of all, ascending.

        Leases of processes and shards that nobody has renewed for a term are released: others have them at once.
        """
        try:
            self._lease.check()
        except LeaseLostError:  # it stood still
            self._held.close()
            self._join()
        holders, now, numbers = read_leases(self._folder, self._below), time.monotonic(), []
        self._watched_s += min(now - self._looked_at, _MOST_APART_S)
        self._looked_at = now
        for holder in holders:
            renewal = holder.mark, holder.renewals
            if self._seen.get(holder.name, (None, 0.0))[0] != renewal:
                self._seen[holder.name] = renewal, self._watched_s
            if holder.released or holder.is_dead or holder.name == self._lease.name:
                continue
            if self._watched_s - self._seen[holder.name][1] >= TERM_S:
                release_for(holder, self._folder)
            elif _ENGINE in holder.name:
                numbers.append(_number_of(holder.name))
        own = _number_of(self._lease.name)
        return own, sorted({*numbers, own})

    def close(self) -> None:
        self._held.close()

    def _join(self) -> None:
        names = (f"{self._below}{_ENGINE}{number}" for number in count())
        self._lease: Lease = self._held.enter_context(hold_free_lease(self._folder, names, action="stream"))


def _number_of(lease: str) -> int:
    return int(lease.rpartition(_ENGINE)[2])


class _ShardThread:
    """Runs the engine of a shard until it is stopped or has caught up.

    It is run again if the shard was another process's, or if the brokers or the lake did not answer.
    """

    def __init__(
        self, shard: Shard, make_engine: Callable[[threading.Event], ArrowEngine], *, is_remote: bool = False
    ) -> None:
        self.stop = threading.Event()
        self.failure: BaseException | None = None  # with which the process ends
        self.left: Exception | None = None  # why the last rows before a stop are not committed
        self._make_engine, self._number = make_engine, shard.number
        # delta-rs tells of an object store that fails by an OSError.
        self._retried = (UnavailableError, OSError) if is_remote else (UnavailableError,)
        self._thread = threading.Thread(target=self._run, name=f"forecache-stream-shard-{shard.number}", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        for failures in count(1):
            try:
                self._make_engine(self.stop).run()
                return
            except ConflictError as error:
                logger.info("Shard %d is another process's: %s", self._number, error)
            except DamagedError as error:  # messages are lost, which another try does not bring back
                self.failure = error
                return
            except self._retried as error:
                logger.warning("Shard %d failed: %s", self._number, error)
                if self.stop.is_set():
                    self.left = error
            except BaseException as error:  # noqa: BLE001  # the process ends with it
                self.failure = error
                return
            if self.stop.wait(_BACKOFF.pause_s(failures)):
                return


class ShardedEngine:
    """Runs a stream beside other processes; arguments and errors of `run` are those of `StreamEngine`.

    There is no standby: a process for which there is no shard waits for one.
    """

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        until_caught_up: bool = False,
        skip_lost: bool = False,
        is_standby: bool = False,
        make_stop: Callable[[], threading.Event] = threading.Event,
    ) -> None:
        del is_standby
        self._settings, self._stream, self._make_stop = settings, stream, make_stop
        self._until_caught_up, self._skip_lost = until_caught_up, skip_lost
        self._shards = shards_of(stream)
        self._threads: dict[Shard, _ShardThread] = {}
        self._said, self._is_first = "", False

    def run(self) -> None:
        settings, stream, stop = self._settings, self._stream, self._make_stop()
        table = self._begin()
        with ExitStack() as held:
            held.enter_context(follow_views(settings, stream))
            left = held.enter_context(_orphaned_rows(settings, stream, table))
            processes = held.enter_context(closing(EngineProcesses(settings, stream.name)))
            try:
                while not stop.is_set() and not self._has_caught_up():
                    self._look(processes, table, left)
                    self._raise_failure()
                    if self._is_first and not self._said and not stop.is_set():
                        self._put_figures()
                    stop.wait(STREAM_SHARDS.every_s)
            finally:
                for thread in self._threads.values():
                    thread.stop.set()
                for thread in self._threads.values():
                    thread.join()
                if not self._said:
                    self._put_figures()
            self._raise_failure()
            for thread in self._threads.values():
                if thread.left is not None:
                    raise thread.left

    def _begin(self) -> StreamWriter:
        """Commit the first offsets of all partitions, unless the table has them; raises as `open_topic`."""
        settings, stream = self._settings, self._stream
        with hold_shards(settings, stream, action="stream") if self._skip_lost else nullcontext() as lease:
            table = StreamWriter(settings, stream, lease=lease)
            with closing(open_topic(settings, stream, table, skip_lost=self._skip_lost)) as topic:
                if not table.offsets:
                    nothing = schema_of(stream).empty_table(), QUARANTINE.empty_table()
                    with suppress(ConflictError):  # another process was faster
                        table.write(CommitBatch(*nothing, dict(topic.next)))
        return table

    def _look(self, processes: EngineProcesses, table: StreamWriter, left: OrphanedPendingRows) -> None:
        """Start and stop shards; while the lake is away, those that run go on."""
        try:
            own, numbers = processes.read_numbers()
            self._is_first = own == numbers[0]  # puts the figures of all
            self._start_and_stop(own, numbers)
            if left.has_layers:
                table.refresh()
                left.confirm(-1, table.version)
                left.sweep()
            self._said = ""
        except Exception as error:  # noqa: BLE001  # whatever it is, the shards that run go on
            if str(error) != self._said:
                logger.warning("Which shards of %s fall to this process is not known: %s", self._stream.name, error)
            self._said = str(error)

    def _start_and_stop(self, own: int, numbers: list[int]) -> None:
        for shard in self._shards:
            is_own = numbers[shard.number % len(numbers)] == own
            thread = self._threads.get(shard)
            if thread is not None and not is_own:
                thread.stop.set()
                if thread.has_ended and thread.failure is None:
                    del self._threads[shard]
            elif thread is None and is_own:
                make, is_remote = partial(self._make_engine, shard), self._settings.lake_is_remote
                self._threads[shard] = _ShardThread(shard, make, is_remote=is_remote)
            elif thread is not None and thread.stop.is_set() and thread.has_ended and thread.failure is None:
                del self._threads[shard]  # it falls to this process again, and is started at the next look

    def _make_engine(self, shard: Shard, stop: threading.Event) -> ArrowEngine:
        return ArrowEngine(
            self._settings, self._stream, until_caught_up=self._until_caught_up, make_stop=lambda: stop, shard=shard
        )

    def _has_caught_up(self) -> bool:
        threads = self._threads.values()
        return self._until_caught_up and bool(threads) and all(each.has_ended for each in threads)

    def _raise_failure(self) -> None:
        for thread in self._threads.values():
            if thread.failure is not None:
                raise thread.failure

    def _put_figures(self) -> None:
        """Put the state of the stream where monitoring reads it, once each shard has one.

        One that failed before it had opened the table knows of no lag: meanwhile the stream's state gets old.
        """
        settings, name = self._settings, self._stream.name
        found = [read_shared_state(settings, shard.name_of(name)) for shard in self._shards]
        states = [state for state in found if state is not None and state.committed_version >= 0]
        if len(states) < len(found):
            return
        state = merge_states(states)
        if not settings.lake_is_remote:
            write_state(settings.home_path, name, state)
            return
        with suppress(ForecacheError, OSError):
            open_stream_state(settings, name).write(STATE, json.dumps(asdict(state)).encode())


@contextmanager
def _orphaned_rows(settings: Settings, stream: Stream, table: StreamWriter) -> Iterator[OrphanedPendingRows]:
    """Open the rows that an engine with the freshness "event" left on this machine, unless another process has."""
    try:
        rows = OrphanedPendingRows(settings, stream, table)
    except ConflictError:
        rows = OrphanedPendingRows(settings, stream, StreamWriter(settings, stream, shard=shards_of(stream)[0]))
    with closing(rows):
        yield rows
