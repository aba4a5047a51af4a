"""Transform and model on random requests: the same bits in Spark, in the reader over each protocol, and in BentoML."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from bento_server import bento_server
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from parity_asked import CANDIDATES, HOUSEHOLDS, PRODUCTS, REQUEST, Asked, declared, requests
from parity_code.models import NOT_A_NUMBER, chosen_feature
from parity_code.scoring import SCHEMA, scoring
from parity_code.transforms import FEATURES, mixed
from parity_places import World, by_invocations, by_json, by_tensors, in_json, scores_of
from reader_support import running_reader
from realtime_support import HOUSEHOLD_KEY, PRODUCT_KEY, write_packed
from release_support import HOUSEHOLD, PRODUCT, make_release

from forecache.base.settings import Settings, load_settings
from forecache.plugins.protocols.bento_model import BentoModel
from forecache.plugins.protocols.write_bento import write_bento
from forecache.plugins.realtime_examples.transform import matrix_column, transform_requests
from forecache.serve.store import Store
from forecache.serve.store.keys import encode_columns
from forecache.serve.store.manifest import Field

ARROW = {
    "bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A reader and BentoML with the model, and with one that tells the bits of a feature."""
    folder = tmp_path_factory.mktemp("parity")
    settings = load_settings(home=folder / "home", spark_master="local[2]")
    write_packed(
        settings, "household", HOUSEHOLDS, key=HOUSEHOLD_KEY, contract="contract-h",
        fields=(Field("spend_28d", "float"), Field("visits_28d", "float")),
    )  # fmt: skip
    write_packed(
        settings, "product", PRODUCTS, key=PRODUCT_KEY, contract="contract-p", fields=(Field("popularity", "float"),)
    )
    common: dict[str, Any] = {
        "features": FEATURES, "transform": mixed, "request": REQUEST, "candidates": CANDIDATES, "on_nan": "accept",
        "lookups": (HOUSEHOLD, PRODUCT), "deadline_ms": 20_000.0, "runs": "loop",
        "warmup": [b'{"household_id": 1, "at": "2026-03-01T08:30:00Z", "candidates": [{"product_id": "a"}]}'],
    }  # fmt: skip
    make_release(settings, name="parity", **common)
    make_release(settings, name="chosen", model=chosen_feature(len(FEATURES)), version=2, **common)
    for name in ("parity", "chosen"):
        write_bento(settings, name, folder / name)
    chosen = BentoModel(folder / "chosen" / "chosen" / "releases" / "00000001", settings.store_path)
    with running_reader(settings) as reader, bento_server(folder / "parity", settings) as url:
        yield World(settings, reader, url, chosen)
    chosen._loaded.close()


@pytest.mark.slow
@hypothesis_settings(
    max_examples=2, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
@given(asked=st.lists(requests(), min_size=10, max_size=14))
def test_every_place_computes_the_same_bits(world: World, spark: Any, asked: list[Asked]) -> None:
    features, scores = in_spark(spark, world.settings, asked)
    with httpx.Client(timeout=30) as http:
        for request, matrix, wanted in zip(asked, features, scores, strict=True):
            if not any_left_out(request):
                assert bits(by_tensors(http, world, request, "parity")) == bits(wanted), request
            ways = []
            if request.is_json:
                ways += [
                    by_json(http, world.reader.url, request, "parity"),
                    by_json(http, world.bento, request, "parity"),
                ]
                ways += [by_invocations(http, world, request, "parity")]
            elif not has_signed_nan(request):
                ways.append(by_json(http, world.bento, request, "parity"))  # it takes NaN and Infinity for JSON
            for found in ways:
                assert bits(found) == bits(as_text(wanted)), (found, wanted, request)
            shown = np.where(np.isnan(matrix), NOT_A_NUMBER, matrix)
            for place, name in enumerate(FEATURES[:-1]):
                one = replace(request, request={**request.request, "chosen": place})
                if not has_signed_nan(one):
                    found = scores_of(world.chosen_in_bento.ask(in_json(one)), one)
                    assert bits(found) == bits(shown[:, place]), (name, found, shown[:, place], request)
                if one.is_json:
                    found, wanted = by_json(http, world.reader.url, one, "chosen"), as_text(shown[:, place])
                else:
                    found, wanted = by_tensors(http, world, one, "chosen"), shown[:, place]
                assert bits(found) == bits(wanted), (name, found, wanted, request)


def bits(scores: np.ndarray) -> bytes:
    """Of scores that a network in float32 gave, whatever carried them; one that is NaN is none, whatever its bits."""
    numbers = np.asarray(scores).astype(np.float32)
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).tobytes()


def as_text(scores: np.ndarray) -> np.ndarray:
    """Scores as JSON has them: null, which is NaN here, for an infinite one."""
    return np.where(np.isfinite(scores), scores, np.nan)


def any_left_out(asked: Asked) -> bool:
    return any(len(each) < len(CANDIDATES.fields) for each in asked.candidates)


def has_signed_nan(asked: Asked) -> bool:
    """Whether a NaN has a sign, which a transform can tell and no text carries."""
    values = [value for each in (asked.request, *asked.candidates) for value in each.values()]
    return any(isinstance(each, float) and math.isnan(each) and math.copysign(1.0, each) < 0 for each in values)


def in_spark(spark: Any, settings: Settings, asked: list[Asked]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features [n, num_features] and scores [n] of each request, by the code that makes training sets."""
    at = datetime(2026, 3, 2, tzinfo=timezone.utc)
    fixed = {"event_timestamp": at, "as_of": at.date(), "split": "train", "taken": 0.0}
    rows = [
        {"request_id": f"{number:04d}", "position": position, **fixed, **request.request, **candidate}
        for number, request in enumerate(asked)
        for position, candidate in enumerate(request.candidates)
    ]
    fields = [("request_id", pa.string()), ("position", pa.int32()), ("event_timestamp", ARROW["timestamp"])]
    fields += [("as_of", pa.date32()), ("split", pa.string()), ("taken", pa.float64())]
    fields += [(field.name, ARROW[field.type]) for field in declared.all_fields]
    columns = {name: pa.array([row.get(name) for row in rows], kind, from_pandas=False) for name, kind in fields}
    for called, by in (("household", "household_id"), ("product", "product_id")):
        columns[matrix_column(called)] = looked_up(settings, called, [row[by] for row in rows])
    frame = spark.createDataFrame(pa.table(columns))
    transformed = transform_requests(frame, declared, files=3)
    scored = transformed.mapInArrow(scoring(settings.store_path / ".realtime" / "parity", 1, FEATURES), SCHEMA)
    found = sorted(scored.collect(), key=lambda row: (row["request_id"], row["position"]))
    features = np.array([row["features"] for row in found], np.float64).astype(np.float32)
    scores = np.array([row["score"] for row in found])
    ends = np.cumsum([len(each.candidates) for each in asked])[:-1]
    return np.split(features, ends), np.split(scores, ends)


def looked_up(settings: Settings, view: str, keys: list[Any]) -> pa.Array:
    snapshot = Store(settings.store_path / view).snapshot()
    try:
        matrix, known = snapshot.matrix(encode_columns(snapshot.manifest.key, [keys]))
    finally:
        snapshot.close()
    rows = [row if is_known else None for row, is_known in zip(matrix, known, strict=True)]
    return pa.array(rows, pa.list_(pa.float32()), from_pandas=False)
