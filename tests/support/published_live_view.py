"""The live view of `live_view_sample` with tiles above its published nights: what it holds and what a request sees."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from live_view_sample import START, VIEW, Payment, features_at, random_payments, table_of, us

from forecache.base.settings import Settings
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.kit.windows.fold import event_states, fold
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.format import LookupContract
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest
from forecache.serve.reader.versions.live_answers import answers_of
from forecache.serve.reader.versions.live_layers import LiveLayers
from forecache.serve.store import open_store
from forecache.serve.store.keys import encode_key
from forecache.serve.store.live.layer import LiveRow
from forecache.serve.store.live.writer import open_live_writer

DAYS = 9
AS_OF = START + timedelta(days=7)
CARDS = 5
PLAN = build_merge_plan(VIEW)
ALL = random_payments(random.Random(1), START, DAYS, 200, cards=CARDS)
AT = us(AS_OF + timedelta(days=1), 700)
"""A moment of the day after the last night."""
TODAY = [p for p in ALL if us(AS_OF + timedelta(days=1)) <= p.at_us <= AT]
"""The payments of that day up to it."""


def keys(settings: Settings) -> list[bytes]:
    manifest = open_store(settings, VIEW.name).current()
    assert manifest is not None
    return [encode_key(manifest.key, (card,)) for card in range(CARDS)]


def truth(payments: Sequence[Payment], card: int, at_us: int) -> np.ndarray:
    found = features_at(payments, card, at_us)
    return np.full(len(PLAN.features), np.nan, np.float32) if found is None else np.array(found, np.float32)


def streamed(payments: Sequence[Payment], as_of: date) -> list[bytes]:
    codes, times = np.array([p.card for p in payments]), np.array([p.at_us for p in payments])
    states = event_states(PLAN, table_of(payments))
    return fold(PLAN, codes, times, states, [None] * CARDS, None, None, as_of, see="nothing").entries


def commit(settings: Settings, layout: Any, payments: Sequence[Payment], at_us: int) -> None:
    tiles = streamed(payments, AS_OF)
    with open_live_writer(layout) as writer:
        writer.apply(7, [(key, LiveRow(7, at_us, value)) for key, value in zip(keys(settings), tiles, strict=True)])


def looked_up(settings: Settings, at_us: int, *, cut: int = -1) -> LookupResult:
    layers, store = LiveLayers(), open_store(settings, VIEW.name)
    contract = LookupContract("card", VIEW.name, ("buyer",), VIEW.served_columns, VIEW.packed.contract, live=True)
    with store.snapshot() as snapshot:
        answers = answers_of(snapshot, layers.open_layer(store))
        answers.manifest = replace(answers.manifest, cut=cut)
        answers.refresh(at_us / 1e6)
        lookups = ViewLookups((contract,), {VIEW.name: answers}, refuses=True)
        request = ParsedRequest(CARDS, {"buyer": np.arange(CARDS)}, list(range(CARDS)), b"")
        found = lookups.read(request, at_us / 1e6)
    layers.close()
    return found
