"""The tailer: keeps every live layer of this machine up to date until it is stopped."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.kit.process.periodic import Backoff, RetryPauses
from forecache.kit.process.wakes import TAILER_COMPARE, TAILER_LAYERS
from forecache.serve.store.live.layer import list_stores_with_layers, read_layer
from forecache.serve.store.remote_store import open_store
from forecache.stream.tail.follower import Follower
from forecache.stream.tail.layer_comparison import ComparisonResult
from forecache.stream.tail.table_log import TableLog

logger = logging.getLogger("forecache.stream")
_BACKOFF = Backoff(0.5, 30.0)
_LOCAL_S, _REMOTE_S = 0.05, 1.0
_MOST_COMPARING = 20


def run_tailer(
    settings: Settings, names: Sequence[str] = (), *, stop: Event, waiting: Callable[[str], None] = lambda name: None
) -> None:
    """Keep the live layers of some streams or stores up to date until `stop` is set; by default all, also later ones.

    One process at a time writes a layer: another one waits until it has ended. `waiting` is called once with each store
    whose layer is written by another process.
    """
    with Tailer(settings, names, waiting=waiting) as tailer:
        while not stop.is_set():
            if not tailer.step():
                stop.wait(poll_interval_s(settings))


def poll_interval_s(settings: Settings) -> float:
    if settings.stream_poll_s is not None:
        return settings.stream_poll_s
    return _REMOTE_S if settings.lake_is_remote else _LOCAL_S


class Tailer:
    """The followers of this machine, and the thread that compares one layer after the other with its table."""

    def __init__(
        self, settings: Settings, names: Sequence[str] = (), *, waiting: Callable[[str], None] = lambda name: None
    ) -> None:
        self._settings, self._names, self._waiting = settings, names, waiting
        self._followers: dict[str, Follower] = {}
        self._logs: dict[str, TableLog] = {}
        self._told: set[str] = set()
        self._pauses = RetryPauses(_BACKOFF)
        self._look_at = float("-inf")
        self._comparing: _RunningComparison | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"forecache-{TAILER_COMPARE.name}")

    def step(self) -> bool:
        """Let each follower do one step; returns True if there may be more to do at once."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + TAILER_LAYERS.every_s
            self._open_followers()
        more = False
        for name, follower in list(self._followers.items()):
            if self._pauses.is_waiting(name):
                continue
            try:
                more |= follower.step()
                self._pauses.note_success(name)
                follower.note_success()
            except Exception as error:  # noqa: BLE001  # the lake may be away, or a disk full; it is tried again
                self._pauses.note_failure(name)
                follower.note_failure(error)
        self._schedule_comparisons()
        return more

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        for follower in self._followers.values():
            follower.close()
        self._followers.clear()

    def __enter__(self) -> "Tailer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_followers(self) -> None:
        """Start followers for new layers and for those whose declaration has changed."""
        for name in list_stores_with_layers(self._settings.store_path):
            store, follower = open_store(self._settings, name), self._followers.get(name)
            try:
                layer = read_layer(store.layout)
                if layer is None or (self._names and not {name, layer.stream} & set(self._names)):
                    continue
                if follower is not None and (follower.layer == layer or self._is_being_compared(name)):
                    continue
                if follower is not None:
                    del self._followers[name]
                    follower.close()
                log = self._logs.setdefault(layer.table, TableLog(self._settings, layer.table))
                self._followers[name] = follower = Follower(store, layer, log)
                # The first comparison is due soon, however long the last one of an earlier process took.
                follower.compared_at -= self._pause_s(follower) - self._settings.stream_verify_s
                logger.info("Following %s for the live layer of %s.", layer.table, name)
            except ConflictError:
                if name not in self._told:
                    self._told.add(name)
                    self._waiting(name)
            except Exception:
                logger.exception("The live layer of %s cannot be opened.", name)

    def _is_being_compared(self, name: str) -> bool:
        return self._comparing is not None and self._comparing.name == name

    def _schedule_comparisons(self) -> None:
        """Handle the result of a comparison that has ended, and start the one that is overdue for the longest time."""
        for follower in self._followers.values():
            follower.compared_every_s = self._comparison_interval_s(follower)
        if self._comparing is not None:
            if not self._comparing.result.done():
                return
            comparing, self._comparing = self._comparing, None
            ended = self._followers.get(comparing.name)
            if ended is not None:
                ended.end_comparison()
            if ended is not None and ended.rebuilt == comparing.rebuilt:
                try:
                    ended.handle_comparison(comparing.result.result(), comparing.began_at)
                except Exception as error:  # noqa: BLE001  # the next comparison tries again
                    ended.note_failure(error)
        overdue_s = {name: self._overdue_s(follower) for name, follower in self._followers.items()}
        name = max(overdue_s, key=overdue_s.__getitem__, default="")
        if name and overdue_s[name] >= 0:
            follower = self._followers[name]
            follower.begin_comparison()
            work = follower.values.prepare_comparison(follower.writer, follower.log.open_newest)
            self._comparing = _RunningComparison(
                name,
                follower.rebuilt,
                time.time(),
                time.monotonic(),
                self._thread.submit(_time_comparison, follower, work),
            )

    def _overdue_s(self, follower: Follower) -> float:
        return time.monotonic() - follower.compared_at - self._pause_s(follower)

    def _pause_s(self, follower: Follower) -> float:
        """Seconds from the start of one comparison until the next is due, so that they use at most 5 % of a core.

        The first one reads all rows and takes longest; its duration does not delay the later ones.
        """
        if follower.compared_all and not follower.values.needs_full_comparison(follower.writer):
            return self._settings.stream_verify_s
        return max(self._settings.stream_verify_s, _MOST_COMPARING * follower.comparison_s)

    def _comparison_interval_s(self, follower: Follower) -> float:
        """Seconds from the start of one comparison to that of the next, including those of other layers in between."""
        others_s = sum(other.comparison_s for other in self._followers.values() if other is not follower)
        running = self._comparing
        if running is not None and running.name != follower.store.pipeline:
            others_s += time.monotonic() - running.began
        return self._pause_s(follower) + others_s


@dataclass(frozen=True)
class _RunningComparison:
    name: str
    rebuilt: int  # the number of rebuilds of its layer when it began
    began_at: float  # Unix time
    began: float  # by the monotonic clock
    result: Future[ComparisonResult]


def _time_comparison(follower: Follower, work: Callable[[], ComparisonResult]) -> ComparisonResult:
    started = time.monotonic()
    try:
        return work()
    finally:
        follower.comparison_s = time.monotonic() - started
