"""Following the stream of `stream_rows.live_churn`: clicks, what the live layer holds and should hold, processes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from store_tables import NEXT_NIGHT
from stream_rows import StreamTable, click, moment
from tail_job import tail_until
from warm import processes, start

from forecache.base.settings import Settings
from forecache.serve.store import Store
from forecache.serve.store.content_hash import content_sum
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.environment import Environment, acquire, release
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import open_live_writer
from forecache.stream.tail.tailer import Tailer


def clicks(start: int, count: int, value: float | None, **more: Any) -> list[dict[str, Any]]:
    return [click(f"{number:05d}", value, moment(NEXT_NIGHT), **more) for number in range(start, start + count)]


@contextmanager
def environment_of(layout: StoreLayout) -> Iterator[Environment]:
    """The LMDB environment of a live layer, past its writer and its readers."""
    environment = acquire(layout.streamed_folder / "live.mdb", is_durable=True)
    try:
        yield environment
    finally:
        release(environment)


def layer(store: Store) -> dict[str, tuple[int, float]]:
    """Of each key in the layer its position and score, read as a reader reads."""
    with environment_of(store.layout) as environment:
        keys = [key for key, _ in environment.read_range(b"", None)]
    with LiveReader(store.layout) as reader:
        rows = {key.decode(): reader.get(key) for key in keys}
    return {key: (row.position, json.loads(row.value)["churn_probability"]) for key, row in rows.items() if row}


def checked_layer(store: Store) -> dict[str, tuple[int, float]]:
    """As `layer`, once nobody writes it, whose content hash has to be that of its rows."""
    with open_live_writer(store.layout) as writer:
        assert content_sum(writer.items()) == writer.content_sum
    return layer(store)


def truth(stream: StreamTable, *, above: int = -1) -> dict[str, tuple[int, float]]:
    """What the layer should hold, of the rows above a position."""
    rows = {key: (row["position"], row["churn_probability"]) for key, row in stream.truth().items()}
    return {key: row for key, row in rows.items() if row[0] > above}


def follow(tailer: Tailer) -> None:
    """Turn until there is nothing more to do."""
    while tailer.step():
        pass


def compare_now(tailer: Tailer) -> None:
    """Have every layer compared with its stream's table now."""
    if tailer._comparing is not None:  # on a slow machine one was due
        tailer._comparing.result.exception(timeout=120)
        tailer.step()
    for follower in tailer._followers.values():
        follower.compared_at = float("-inf")
    tailer.step()
    assert tailer._comparing is not None
    tailer._comparing.result.result(timeout=120)
    tailer.step()


def tail_process(settings: Settings, step: str = "", nth: int = 1) -> Any:
    """A tailer in a process of its own, which kills itself at a step; it has started when this returns."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(tail_until, settings.home_path, step, nth, theirs)
    theirs.close()
    ours.recv()
    return process
