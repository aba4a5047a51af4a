"""Runs a stream: its lease and figures, choice and base class of the engines, and the look for a newer model."""

import logging
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from forecache.base.errors import ConflictError, NotFoundError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.settings import Settings
from forecache.declare import Realtime, Stream
from forecache.kit.installation import hold_exclusively
from forecache.kit.lease import Lease
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.usage import tree_cpu_s
from forecache.kit.process.wakes import STREAM_MODELS, STREAM_VIEWS
from forecache.serve.store import open_remote, open_store, pull
from forecache.serve.store.remote import push_layer
from forecache.stream.engine.saved_files import copy_saved_files
from forecache.stream.kafka.client import client_options
from forecache.stream.live_layers import write_layers
from forecache.stream.state import StreamState, lease_name, share_state, write_state
from forecache.stream.step import Answerer
from forecache.stream.table.schema import ALL_PARTITIONS, Shard, shards_of

if TYPE_CHECKING:
    from forecache.stream.engine.sharded_engine import ShardedEngine

_WINDOW_S = 60.0
_KEPT_DELAYS = 200
_EVERY_S = 1.0
_WAIT_S = 1.0
_PULL_WAIT_S = 600.0  # for another process of this machine that pulls or publishes a view
_PROCESSOR_EVERY_S = 5.0
"""Finding child processes reads every process of the machine: some milliseconds if there are hundreds."""
logger = logging.getLogger("forecache.stream")


class StreamFigures:
    """Figures of one engine in a `state` that is written; any thread may add to them."""

    def __init__(self, home: Path, name: str, *, engine: str, freshness: str) -> None:
        self._home, self._name = home, name
        process = f"{socket.gethostname()}/{os.getpid()}"
        self.state = StreamState(
            pid=os.getpid(), process=process, started_at=time.time(), engine=engine, freshness=freshness
        )
        # Of each commit: when, how many rows, and some of their delays.
        self._commits: deque[tuple[float, int, np.ndarray]] = deque()
        self._began, self._write_at, self._look_at = time.monotonic(), 0.0, 0.0
        self._cpu_before_s = tree_cpu_s(os.getpid())

    def count_commit(self, version: int, offsets: Mapping[int, int], arrived_us: np.ndarray) -> None:
        """Count a commit, given the Kafka timestamps of its messages in microseconds since 1970."""
        now, state = time.time(), self.state
        state.rows += len(arrived_us)
        state.committed_version, state.committed_at = version, now
        state.offsets = {str(partition): offset for partition, offset in sorted(offsets.items())}
        step = max(1, len(arrived_us) // _KEPT_DELAYS)
        self._commits.append((time.monotonic(), len(arrived_us), now - arrived_us[::step] / 1e6))

    def write(self, ends: Mapping[int, int] | None = None, *, now: bool = False) -> None:
        """Write the state if a second has passed since the last time, or if `now`."""
        at = time.monotonic()
        if at < self._write_at and not now:
            return
        self._write_at = at + _EVERY_S
        state = self.state
        if ends is not None:
            state.end_offsets = {str(partition): offset for partition, offset in sorted(ends.items())}
            state.lag_events = sum(
                max(0, offset - state.offsets.get(partition, 0)) for partition, offset in state.end_offsets.items()
            )
        state.written_at = time.time()
        while self._commits and self._commits[0][0] < at - _WINDOW_S:
            self._commits.popleft()
        commits = list(self._commits)
        lasted = min(_WINDOW_S, max(_EVERY_S, at - self._began))
        state.rows_per_s = round(sum(rows for _, rows, _ in commits) / lasted, 3)
        delays = np.concatenate([np.zeros(0), *(each for _, _, each in commits)])
        percentiles = np.percentile(delays, (50, 99)).round(4).tolist() if len(delays) else (None, None)
        state.delay_p50_s, state.delay_p99_s = percentiles
        if at >= self._look_at or now:
            self._look_at = at + _PROCESSOR_EVERY_S
            # The time of a child that ended and was not waited for is lost: never report less than before.
            state.cpu_s = max(state.cpu_s or 0.0, tree_cpu_s(os.getpid()) - self._cpu_before_s)
        write_state(self._home, self._name, state)


@contextmanager
def hold_stream(settings: Settings, name: str, *, action: str, waits: bool = False) -> Iterator[Lease]:
    """Hold the lease of a stream, which one process of all machines has at a time.

    If `waits`, wait until the process that runs it ends or dies; else raise ConflictError.
    """
    holders: list[str] = []

    def report(holder: str) -> None:
        holders.append(holder)
        if waits:
            logger.info("The stream %s is run by %s; this process waits to take over.", name, holder)

    with ExitStack() as held:
        try:
            lease = held.enter_context(
                hold_exclusively(
                    settings, lease_name(name), action=action, wait_s=None if waits else _WAIT_S, report=report
                )
            )
        except ConflictError:
            if not holders:
                raise
            raise ConflictError(
                f"The stream {name!r} is run by {holders[-1]}.",
                remedy="One process runs a stream: stop the other one first.",
            ) from None
        yield lease


@contextmanager
def follow_views(settings: Settings, stream: Stream) -> Iterator[None]:
    """Write the live layers; if machines share a bucket, pull the versions that the stream's features stand on.

    They are pulled now and then periodically: features of a version that is not here would count as unknown, without an
    error. The live layers go to the remote, where readers find them.
    """
    write_layers(settings, stream)
    if not (settings.lake_is_remote and settings.store_remote):
        yield
        return
    remote = open_remote(settings.store_remote, settings.storage_options)
    names = [view.name for view in stream.views]
    if isinstance(stream.answers, Realtime):
        names += [lookup.view.name for lookup in stream.answers.lookups if lookup.view.name not in names]

    def pull_views() -> None:
        for name in names:
            with suppress(NotFoundError):  # nothing is published yet
                pull(open_store(settings, name), remote, wait_s=_PULL_WAIT_S)

    for name in stream.live_names:
        push_layer(open_store(settings, name).layout, remote)
    pull_views()
    with PeriodicThread(STREAM_VIEWS, pull_views, close_s=0.0):
        yield


class StreamEngine(ABC):
    """Runs one stream or one of its shards, once; its figures are written to a file once a second.

    With `until_caught_up` it ends when the messages that the topic had at the start are committed; with `skip_lost` it
    continues with the messages that the topic still has, if others were lost. As a standby, which only a lake in a
    bucket has, it waits while another process runs the stream, and takes over from it. `make_stop` is called once it
    runs; the event is set to end it, and answered events are committed first.
    """

    name: ClassVar[str]

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        until_caught_up: bool = False,
        skip_lost: bool = False,
        is_standby: bool = False,
        make_stop: Callable[[], threading.Event] = threading.Event,
        shard: Shard = ALL_PARTITIONS,
    ) -> None:
        self._settings, self._stream, self._shard = settings, stream, shard
        self._until_caught_up, self._skip_lost = until_caught_up, skip_lost
        self._waits, self._make_stop = is_standby and settings.lake_is_remote, make_stop
        name = shard.name_of(stream.name)
        self.figures = StreamFigures(settings.home_path, name, engine=self.name, freshness=stream.freshness)

    def run(self) -> None:
        """Run until it is stopped, or has caught up.

        Raises:
            ConflictError: Another process runs the stream, has taken it over, or commits to it.
            NotFoundError: There is no such topic, or no release or model version that could answer.
            DamagedError: Messages that were not read yet are lost.
            UnavailableError: No broker answers at the start, Spark does not start, or a lake or store cannot be read.
        """
        settings, name = self._settings, self._shard.name_of(self._stream.name)
        # The end of the run is reported last, after the stream's lease was released.
        with ExitStack() as telling, ExitStack() as held:
            action = f"stream with the engine {self.name}"
            self._lease = held.enter_context(hold_stream(settings, name, action=action, waits=self._waits))
            self._stop = self._make_stop()
            self.figures.state.started_at = time.time()
            held.enter_context(share_state(settings, name, self._lease, lambda: self.figures.state))
            held.enter_context(copy_saved_files(settings, name, self._lease))
            for report_run in find_hooks("report_stream_run") if self._shard.number == 0 else ():
                telling.enter_context(report_run(settings, self._stream, self.figures.state))
            try:
                if self._shard == ALL_PARTITIONS:  # of shards, the process does it once
                    held.enter_context(follow_views(settings, self._stream))
                self._run(held)
            except BaseException as error:
                self.figures.state.last_error = str(error)
                self.figures.write(now=True)
                raise
            self.figures.state.stopped_at = time.time()
            self._write_last_figures()

    def _end_if_taken_over(self) -> None:
        """Raise LeaseLostError if another process runs the stream; a term that only ended is renewed by a commit."""
        if self._lease.is_taken_over:
            self._lease.check()

    def _send_answers(self, held: ExitStack) -> None:
        """Send the answers to the declared topic, if there is one, until `held` is closed."""
        if self._stream.to_topic is not None:
            send_answers = load_hook("stream_answers", "send_answers")
            options = client_options(self._settings)
            held.enter_context(send_answers(self._settings, self._stream, options, self._note_failure))

    @abstractmethod
    def _run(self, held: ExitStack) -> None:
        """Run the stream; the resources in `held` are closed afterwards."""

    @abstractmethod
    def _note_failure(self, sentence: str) -> None:
        """Note what has failed, until the next commit."""

    @abstractmethod
    def _write_last_figures(self) -> None: ...


class ModelWatch:
    """A thread that looks for a newer release or champion; the loop switches to it between two batches."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._found: Any = None
        self._thread = PeriodicThread(
            STREAM_MODELS,
            self._look_for_newer,
            every_s=lambda: answerer.look_every_s,
            # A registry that is away stops no stream.
            report=lambda error: logger.warning("What answers was not looked up: %s", error),
            close_s=5.0,
        ).start()

    @property
    def failure(self) -> str:
        """The reason why a newer one cannot be used; "" if nothing failed. The current one continues to answer."""
        return self._thread.failure

    def switch_to_newer(self) -> bool:
        """Switch to the newer release or champion if one was found; called by the loop."""
        found = self._found
        if found is None:
            return False
        self._answerer.switch_to(found)
        self._found = None
        return True

    def close(self) -> None:
        self._thread.close()

    def _look_for_newer(self) -> None:
        if self._found is None:
            self._found = self._answerer.find_newer()


@contextmanager
def hold_shards(settings: Settings, stream: Stream, *, action: str) -> Iterator[Lease]:
    """Hold the leases of all shards of a stream, as `hold_stream`; yields that of the first, which is lost with any."""
    with ExitStack() as held:
        names = [shard.name_of(stream.name) for shard in shards_of(stream)]
        first, *others = [held.enter_context(hold_stream(settings, name, action=action)) for name in names]
        first.depend_on(others)
        yield first


def engine_of(stream: Stream) -> "type[StreamEngine] | type[ShardedEngine]":
    if stream.engine == "spark":
        spark_engine: type[StreamEngine] = load_hook("spark_stream", "engine")
        return spark_engine
    if stream.shards > 1:
        from forecache.stream.engine.sharded_engine import ShardedEngine

        return ShardedEngine
    from forecache.stream.engine.arrow_engine import ArrowEngine

    return ArrowEngine
