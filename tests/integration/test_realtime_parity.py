"""Transform and model on random requests: the same bits in Spark, in the reader over each protocol, and in BentoML."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from asked_project.views import SALES, household, product
from bento_server import bento_server
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from parity_code.models import NOT_A_NUMBER, chosen_feature
from parity_code.scoring import SCHEMA, scoring
from parity_code.transforms import FEATURES, mixed
from reader_support import RunningReader, running_reader
from realtime_support import HOUSEHOLD_KEY, PRODUCT_KEY, write_packed
from release_support import HOUSEHOLD, PRODUCT, make_release

from forecache.lake.examples.lookups import matrix_column
from forecache.lake.examples.transform import transform_requests
from forecache.pipeline import (
    Baseline,
    Candidates,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    OrderGiven,
    Realtime,
    RequestField,
)
from forecache.realtime.bento.model import BentoModel
from forecache.realtime.bento.write import write_bento
from forecache.realtime.http.inference.tensors import Tensor, render_response
from forecache.settings import Settings, load_settings
from forecache.store import Store
from forecache.store.fields import Field
from forecache.store.keys import encode_columns

REQUEST = (
    RequestField("household_id", "bigint"),
    RequestField("weight", "double", default=0.25),
    RequestField("gold", "boolean", default=False),
    RequestField("city", "string", default="nowhere"),
    RequestField("at", "timestamp"),
    RequestField("on", "date", default=date(2026, 2, 28)),
    RequestField("chosen", "bigint", default=0),
)
CANDIDATES = Candidates(
    (
        RequestField("product_id", "string"),
        RequestField("price", "double", default=-0.0),
        RequestField("stock", "bigint", default=2**53 + 1),
    )
)
TINY, HUGE = float(np.float32(1e-45)), float(np.finfo(np.float32).max)
HOUSEHOLDS: Mapping[int, tuple[float, float]] = {
    1: (10.0, 2.0),
    2: (-0.0, float("nan")),
    2**53 + 1: (TINY, HUGE),
    -(2**63): (0.1, -0.0),
    2**63 - 1: (float("nan"), 1.0),
}
PRODUCTS: Mapping[str, tuple[float]] = {
    "a": (0.1,), "ä": (-0.0,), "a\u0308": (float("nan"),), "日本|語\\": (HUGE,), "😀": (TINY,), " ": (3.0,),
}  # fmt: skip
ARROW = {
    "bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(),
}  # fmt: skip


def taken(rows: Any, first: date, last: date) -> Any:
    raise NotImplementedError


def build() -> Any:
    raise NotImplementedError


declared = Realtime(
    name="parity",
    request=REQUEST,
    candidates=CANDIDATES,
    lookups=(Lookup(household), Lookup(product)),
    transform=mixed,
    features=tuple(map(Feature, FEATURES)),
    model=EstimatorModel(build),
    ladder=(OrderGiven(),),
    examples=Examples((SALES,), taken, label="taken", kind="ranking"),
    gate=Gate("ndcg@5", {"ndcg@5": 0.3}, baseline=Baseline("price")),
)

WHOLE = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(2**53 - 3, 2**53 + 3),
    st.sampled_from(sorted(HOUSEHOLDS)),
    st.integers(0, 9),
)
# JSON has no infinity, which the features of larger numbers are in float32.
NUMBER = st.one_of(st.floats(-3e38, 3e38), st.sampled_from([0.0, -0.0, 5e-324, 0.1, 16777217.0]))
ANY_NUMBER = st.one_of(st.floats(), st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 1e308]))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENT = st.datetimes(datetime(1960, 1, 2), datetime(2200, 1, 1), timezones=ZONES)


@dataclass(frozen=True)
class Asked:
    """A request; a field that is left out is null. In JSON, as the reader takes it, all numbers are finite."""

    request: Mapping[str, Any]
    candidates: list[Mapping[str, Any]]
    is_json: bool


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    is_json = draw(st.booleans())
    number = NUMBER if is_json else ANY_NUMBER
    optional = {
        "weight": number, "gold": st.booleans(), "city": TEXT,
        "on": st.dates(date(1600, 1, 1), date(2400, 1, 1)),
    }  # fmt: skip
    request = {"household_id": draw(WHOLE), "at": draw(MOMENT)}
    request |= {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    keys = st.one_of(st.sampled_from(sorted(PRODUCTS)), TEXT)
    candidates = []
    for product_id in draw(st.lists(keys, min_size=1, max_size=6, unique=True)):
        candidate = {"product_id": product_id}
        # A tensor holds a value for every candidate, JSON may leave some out.
        if not is_json or draw(st.booleans()):
            candidate |= {"price": draw(number), "stock": draw(WHOLE)}
        candidates.append(candidate)
    return Asked(request, candidates, is_json)


@dataclass(frozen=True)
class World:
    settings: Settings
    reader: RunningReader
    bento: str
    chosen_in_bento: BentoModel


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


def in_json(asked: Asked) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asked.request, default=lambda moment: moment.isoformat()))
    return {**plain, "candidates": asked.candidates}


def by_json(http: httpx.Client, url: str, asked: Asked, model: str) -> np.ndarray:
    body = json.dumps(in_json(asked), ensure_ascii=False).encode()

    def ask() -> tuple[Any, str]:
        answer = http.post(f"{url}/v1/{model}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        return told, told.get("why", "")

    return scores_of(by_the_model(ask), asked)


def by_the_model(ask: Callable[[], tuple[Any, str]]) -> Any:
    """What the model answers: a busy machine makes it late now and then, or has it moved to another process."""
    for _ in range(50):
        answer, why = ask()
        if not why:
            return answer
        time.sleep(0.1)
    raise AssertionError(answer)


def scores_of(answer: Mapping[str, Any], asked: Asked) -> np.ndarray:
    """The scores of a ranking in the order of the request."""
    for each in answer["items"]:
        assert each.get("rung", "model") == "model" or each["score"] is None, answer
    by_product = {each["product_id"]: each["score"] for each in answer["items"]}
    return np.array([by_product[each["product_id"]] for each in asked.candidates], np.float64)


def by_invocations(http: httpx.Client, world: World, asked: Asked, model: str) -> np.ndarray:
    request = in_json(asked)
    rows = [{**request, **candidate} for candidate in request.pop("candidates")]

    def ask() -> tuple[Any, str]:
        answer = http.post(f"{world.reader.url}/invocations?model={model}", json={"dataframe_records": rows})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"], answer.json().get("why", "")

    return np.array(by_the_model(ask), np.float64)


def by_tensors(http: httpx.Client, world: World, asked: Asked, model: str) -> np.ndarray:
    """By the Open Inference Protocol with binary tensors."""
    kinds = {"bigint": ("INT64", np.int64), "double": ("FP64", np.float64), "boolean": ("BOOL", np.bool_)}
    columns = {name: [value] for name, value in asked.request.items()}
    columns |= {name: [each[name] for each in asked.candidates] for name in asked.candidates[0]}
    tensors = []
    for field in declared.all_fields:
        if field.name not in columns:
            continue
        values = columns[field.name]
        datatype, dtype = kinds.get(field.type, ("BYTES", None))
        texts = [value if isinstance(value, str) else value.isoformat() for value in values] if dtype is None else []
        tensors.append(Tensor(field.name, datatype, texts if dtype is None else np.array(values, dtype)))
    body, length = render_response({"parameters": {"binary_data_output": True}}, tensors, [True] * len(tensors))
    head = body[:length].replace(b'"outputs":', b'"inputs":', 1)

    def ask() -> tuple[Any, str]:
        answer = http.post(
            f"{world.reader.url}/v2/models/{model}/infer",
            content=head + body[length:],
            headers={"inference-header-content-length": str(len(head))},
        )
        assert answer.status_code == 200, answer.text
        start = int(answer.headers["inference-header-content-length"])
        described = json.loads(answer.content[:start])
        size = described["outputs"][0]["parameters"]["binary_data_size"]
        scores = np.frombuffer(answer.content[start : start + size], np.float64)
        return scores, described["parameters"].get("why", "")

    found: np.ndarray = by_the_model(ask)
    return found
