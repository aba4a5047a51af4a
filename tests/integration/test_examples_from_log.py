"""A model that learns from its own traffic: the request log, joined with what came of the answers."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from offered_project.pipelines.offers import SHOWN, offers
from offered_project.views import VISITS
from offered_sample import NIGHT, START, Shown, land_offers, shown, visits

from forecache.base.errors import InputError, NotFoundError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Log
from forecache.kit.delta.tables import append_rows
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.historical_features.requests import logged_answer_rows, logged_state
from forecache.plugins.historical_features.training_set import build_examples
from forecache.realtime.log.record import schema, table_of

pytestmark = pytest.mark.slow
ASKED = shown()


def taken_of_the_answered(rows: Mapping[str, Any], first: Any, last: Any) -> Any:
    """The logged candidates with what came of them, as landed by another system."""
    taken = rows["shown"].select("request_id", "product_id", "taken")
    return (
        rows["log"]
        .join(taken, ["request_id", "product_id"])
        .drop("shown", "score", "answered_by", "release", "variant")
    )


examples = replace(offers.examples, compute=taken_of_the_answered, from_log=True)  # type: ignore[type-var]
learns = replace(offers, log=Log("household_id"), examples=examples)


def requests() -> dict[str, list[Shown]]:
    found: dict[str, list[Shown]] = defaultdict(list)
    for row in ASKED:
        found[row.request].append(row)
    return found


def record(request: str, rows: list[Shown], **changed: Any) -> dict[str, Any]:
    """A record of the log of an answer whose scores are the prices of the candidates, in float32."""
    first = rows[0]
    body = {
        "household_id": first.household,
        "channel": first.channel or None,
        "asked_at": first.at.isoformat(),
        "candidates": [{"product_id": row.product, "price": row.price} for row in rows],
    }
    return {
        **dict.fromkeys(schema().names),
        "request_id": request, "arrived_at": first.at, "day": first.at.date(), "key": str(first.household),
        "request": orjson.dumps(body), "items": len(rows), "release": 3, "model_version": 2, "variant": "current",
        "scores": np.array([row.price for row in rows], np.float32).tobytes(), "score_dtype": "float32",
        "answered_by": "model", "fallback_reason": "", "warnings": [],
        "stores": [], "late": False, "deadline_ms": 50.0, "replica": "here#1",
        **changed,
    }  # fmt: skip


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("learns") / "home"
    settings = load_settings(home=home, project="offered_project", spark_master="local[2]")
    land_offers(settings, visits(), ASKED)
    for source in (VISITS, SHOWN):
        ingest(settings, source)
    return settings


def add_to_log(settings: Settings, records: list[dict[str, Any]]) -> None:
    append_rows(settings, table_of("offers"), pa.Table.from_pylist(records, schema=schema()), partition_by=("day",))


@pytest.fixture(scope="module")
def logged(landed: Settings) -> Settings:
    """With a log of all requests; some came twice, some were answered by a shadow too, one by fallbacks."""
    records = [record(request, rows) for request, rows in requests().items()]
    again, shadowed, lower = (list(requests().items())[place] for place in (5, 6, 7))
    earlier = again[1][0].at - timedelta(seconds=1)
    records.append(
        record(*again, arrived_at=earlier, day=earlier.date(), scores=None, answered_by="order_given", release=2)
    )
    records.append(record(*shadowed, variant="shadow", release=4))
    count = len(lower[1])
    records[7] = record(
        *lower, scores=None, answered_by="order_given",
        item_answered_by=["precomputed"] + ["order_given"] * (count - 1),
        ranking=list(range(count))[::-1],
    )  # fmt: skip
    add_to_log(landed, records)
    return landed


def test_it_gets_each_answer_once_with_the_place_in_which_each_candidate_was_shown(
    logged: Settings, spark: Any
) -> None:
    rows = logged_answer_rows(spark, logged, learns, START, NIGHT).collect()
    found = {(row["request_id"], row["position"]): row.asDict() for row in rows}
    assert len(found) == len(rows) == len(ASKED)
    lower = list(requests())[7]
    for request, asked in requests().items():
        dearest = sorted(range(len(asked)), key=lambda place: -asked[place].price)
        order = list(range(len(asked)))[::-1] if request == lower else dearest
        for place, each in enumerate(asked):
            row = found[request, place]
            assert (row["household_id"], row["channel"]) == (each.household, each.channel or "web")
            assert (row["product_id"], row["price"]) == (each.product, each.price)
            assert row["asked_at"] == row["event_timestamp"] == each.at.replace(tzinfo=None)
            assert row["shown"] == order.index(place) + 1
            assert (row["release"], row["variant"]) == (3, "current")
            if request == lower:
                assert (row["answered_by"], row["score"]) == ("order_given" if place else "precomputed", None)
            else:
                assert (row["answered_by"], row["score"]) == ("model", float(np.float32(each.price)))


def test_a_model_learns_the_same_from_its_log_as_from_what_landed(logged: Settings, spark: Any) -> None:
    def table() -> pa.Table:
        whole = DeltaTable(logged.table_uri("training_set_offers")).to_pyarrow_table()
        return whole.sort_by([("request_id", "ascending"), ("position", "ascending")])

    build_examples(logged, offers, NIGHT, run_id="landed")
    wanted = table()
    first = build_examples(logged, learns, NIGHT, run_id="logged")
    assert not first.skipped
    assert str(table().to_pylist()) == str(wanted.to_pylist())  # as text, because NaN is not equal to itself
    assert build_examples(logged, learns, NIGHT, run_id="again").skipped, "nothing was logged in between"


def test_what_it_learns_changes_with_the_days_that_it_learns_from_alone(logged: Settings) -> None:
    before = logged_state(logged, learns, START, NIGHT - timedelta(days=1))
    asked = [row for row in ASKED if row.at.date() == NIGHT][:1]
    add_to_log(logged, [record("later", asked)])
    assert logged_state(logged, learns, START, NIGHT - timedelta(days=1)) == before
    assert logged_state(logged, learns, START, NIGHT) != before


def test_a_request_that_the_declaration_takes_no_more_is_refused_by_its_id(logged: Settings, spark: Any) -> None:
    day = START - timedelta(days=30)
    old = record("old", [replace(ASKED[0], at=ASKED[0].at - timedelta(days=31))])
    add_to_log(logged, [{**old, "day": day, "request": b'{"household_id": 1, "candidates": [{"product_id": "p1"}]}'}])
    with pytest.raises(Exception, match="logged request 'old' of 'offers', which release 3 answered.*asked_at"):
        logged_answer_rows(spark, logged, learns, day, day).collect()


def test_a_request_that_has_other_rows_by_the_declaration_is_refused_by_its_id(logged: Settings, spark: Any) -> None:
    day = START - timedelta(days=50)
    rows = [replace(ASKED[0], at=ASKED[0].at - timedelta(days=51))]
    add_to_log(logged, [record("ranked", rows, day=day, items=2, scores=np.ones(2, np.float32).tobytes())])
    with pytest.raises(Exception, match="logged request 'ranked' of 'offers'.*It had 2 rows, and 1 by"):
        logged_answer_rows(spark, logged, learns, day, day).collect()


def test_a_request_that_was_answered_unchecked_and_does_not_fit_is_left_out(logged: Settings, spark: Any) -> None:
    day = START - timedelta(days=40)
    rows = [replace(ASKED[0], at=ASKED[0].at - timedelta(days=41))]
    unread = {"day": day, "scores": None, "answered_by": "order_given", "fallback_reason": "deadline"}
    bad, good = record("bad", rows, **unread), record("good", rows, **unread)
    wrong = {**orjson.loads(bad["request"]), "household_id": "no number"}
    add_to_log(logged, [{**bad, "request": orjson.dumps(wrong)}, good])
    found = logged_answer_rows(spark, logged, learns, day, day).collect()
    assert [row["request_id"] for row in found] == ["good"]


def test_a_log_that_is_not_there_and_one_that_is_not_declared_are_said(landed: Settings, spark: Any) -> None:
    with pytest.raises(NotFoundError, match="'others' learns from its log, and nothing of it has been logged"):
        logged_answer_rows(spark, landed, replace(learns, name="others"), START, NIGHT)
    with pytest.raises(SettingsError, match="'offers' learns from its log and has none"):
        replace(learns, log=None)
    with pytest.raises(SettingsError, match="learns from 13 days of its log.* and keeps 12"):
        replace(learns, log=Log("household_id", keep_days=12))
    assert replace(learns, log=Log("household_id", keep_days=13)).log is not None
    with pytest.raises((SettingsError, InputError), match="has a source named 'log'"):
        replace(examples, sources=(replace(SHOWN, name="log"),))
