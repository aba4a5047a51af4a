"""The index of a stream's rows gives the tiles after any row, as a fold of the rows up to it has them."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from live_answers import CARDS, Streaming, live_stream, night_of, payments, rows_in_table
from live_view_sample import EPOCH, VIEW, random_payments, table_of

from forecache.base.settings import Settings
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.kit.windows.fold import event_states, fold
from forecache.kit.windows.tiles import TileLayout
from forecache.plugins.parity.stream_replay import (
    PLACES_OF_A_COMMIT,
    NeededRows,
    StreamReplay,
    index_views,
)
from forecache.plugins.parity.tile_index import combine_running
from forecache.serve.store.publishing.worker_pool import ProcessPool

NOW = datetime.now(timezone.utc)
PLAN = build_merge_plan(VIEW)


@pytest.fixture
def streaming(settings: Settings) -> Iterator[Streaming]:
    with live_stream(settings, NOW) as found:
        yield found


def test_tiles_after_any_row_are_those_that_a_fold_of_the_rows_before_has(streaming: Streaming, tmp_path: Path) -> None:
    settings = streaming.settings
    events = payments(NOW, 150, seed=4)
    for start in range(0, len(events), 25):
        streaming.take(events[start : start + 25])
        streaming.commit()
    rows = rows_in_table(settings)
    by_name = {f"p{each.at_us}": each for each in events}
    ordered = [by_name[row["payment"]] for row in rows]
    (tmp_path / "index").mkdir()
    with ProcessPool(0) as pool:
        indexed = index_views(settings, {VIEW.name: NeededRows(night_of(NOW), None)}, tmp_path / "index", pool)
    streamed = StreamReplay(indexed[VIEW.name])
    rng = random.Random(7)
    keys = [str(card).encode() for card in range(CARDS)]
    for _ in range(20):
        until = rng.randrange(len(ordered) + 1)
        bound = -1 if not until else rows[until - 1]["position"] * PLACES_OF_A_COMMIT + rows[until - 1]["place"]
        before = ordered[:until]
        codes, at_us = (np.array([getattr(each, name) for each in before], np.int64) for name in ("card", "at_us"))
        states = event_states(PLAN, table_of(before))
        made = fold(PLAN, codes, at_us, states, [None] * CARDS, None, None, EPOCH, see="nothing").entries
        found = streamed.tile_entries(keys, np.full(CARDS, bound))
        seen = set(codes.tolist())
        assert found == [entry if card in seen else None for card, entry in enumerate(made)]


def test_a_running_combination_is_that_of_one_after_the_other() -> None:
    layout = TileLayout(PLAN.day_states)
    events = random_payments(random.Random(2), EPOCH + timedelta(days=20000), 1, 40)
    words = event_states(PLAN, table_of(events)).day
    group = np.sort(np.random.default_rng(1).integers(0, 5, len(words)))
    found = combine_running(layout, group, words)
    for place in range(len(words)):
        its = words[: place + 1][group[: place + 1] == group[place]]
        assert found[place].tobytes() == layout.combine_all(its[None])[0].tobytes()
