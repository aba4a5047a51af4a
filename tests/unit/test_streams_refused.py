"""What a stream, its topic or a live view cannot be is refused when its declaration loads."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from declared_streams import CHECK, SPENT, STREAM, TOPIC, check, view
from live_view_sample import PAYMENTS, VIEW

from forecache.base.errors import SettingsError
from forecache.declare import (
    Avro,
    Candidates,
    Column,
    Feature,
    FeatureView,
    FunctionModel,
    Live,
    LiveRows,
    OrderGiven,
    Publish,
    Realtime,
    RequestField,
    Schedule,
    Source,
    SqlModel,
    Table,
    Topic,
    ToTopic,
    Window,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window("w", "count"), "Window 'w' has neither days nor minutes"),
        (lambda: Window("w", "count", 1, minutes=5), "has both days and minutes"),
        (lambda: Window("w", "count", minutes=1441), "minutes=1441"),
        (lambda: Window("w", "count", minutes=5, delay_days=1), "delay_days=1"),
        (lambda: Window("w", "count", 1, delay_days=-1), "delay_days=-1"),
        (lambda: Window("w", "distinct", minutes=5, column="card"), "aggregate='distinct'"),
        (lambda: Live(nights=0), "nights=0"),
        (lambda: Live(tile_minutes=7), "tile_minutes=7"),
        (lambda: view(Window("w", "count", minutes=5), live=None), "over 5 minutes"),
        (lambda: view(Window("w", "count", minutes=7)), "over 7 minutes, and tiles of 5"),
        (lambda: view(Window("w", "distinct", 3, "pieces")), "a distinct count, which has no live part"),
        (lambda: view(Window("w", "count", 3, delay_days=1)), "ends 1 days before the as-of date"),
        (lambda: view(publish=None), "is live and has no `publish`"),
        (lambda: view(publish=Publish(backend="redis")), "publish.backend='redis'"),
        (lambda: view(Window("a", "count", 1), publish=Publish(fields=("a",))), "publish.fields=('a',)"),
        (lambda: view(schedule=Schedule(every="week")), "schedule.every='week'"),
        (
            lambda: FeatureView(
                "v", ("card",), (of_days(),), windows=(Window("n", "count", 2),), publish=Publish(), live=Live()
            ),
            "event_time='date'",
        ),
        (lambda: Topic("t", topic="a b", source=PAYMENTS), "topic='a b'"),
        (lambda: Topic("t", topic="t", source=of_days()), "whose rows have the event time 'day', a date"),
        (lambda: Topic("t", topic="t", source=PAYMENTS, without=("at",)), "without='at'"),
        (lambda: Topic("t", topic="t", source=PAYMENTS, without=("nothing",)), "without='nothing'"),
        (lambda: Topic("t", topic="t", source=PAYMENTS, key=("nothing",)), "key='nothing'"),
        (lambda: Topic("t", topic="t", source=PAYMENTS, key=("fraud",), without=("fraud",)), "key='fraud'"),
        (lambda: Avro(""), "schema=''"),
        (lambda: ToTopic(""), "topic=''"),
        (lambda: LiveRows(keep_h=0), "keep_h=0"),
    ],
)
def test_what_a_live_view_or_a_topic_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make()
    assert message in str(refused.value)


def of_days() -> Source:
    columns = (Column("card", "bigint"), Column("day", "date"))
    return Source("days", columns=columns, event_time="day", start=date(2026, 1, 1))


OTHER = replace(VIEW, name="other")
NO_UNIQUE = replace(PAYMENTS, unique=())
SHARDED = {"shards": 2, "topic": replace(TOPIC, key=("card",))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": (), "answers": None}, "has neither views nor answers"),
        ({"to": (LiveRows(),)}, "Every stream has its table"),
        ({"to": (Table(), Table())}, "declares the kind of result 'Table' twice"),
        ({"answers": None}, "Only `Table()` is of use without `answers`"),
        ({"engine": "spark", "freshness": "event"}, "freshness='event'"),
        ({"late_days": -1}, "late_days=-1"),
        ({"answers": None, "to": (Table(),), "keep_features": True}, "has keep_features=True. Without `answers`"),
        ({"commit_s": 0}, "commit_s=0"),
        ({"shards": 0}, "shards=0"),
        ({"shards": 2}, "shards=2"),
        ({**SHARDED, "engine": "spark"}, "shards=2"),
        ({**SHARDED, "freshness": "event"}, "shards=2"),
        ({**SHARDED, "to": (Table(), ToTopic("t"))}, "shards=2"),
        (
            {"shards": 2, "topic": replace(TOPIC, key=("payment",))},
            "2 shards by payment, and its view 'card_live' is keyed by card",
        ),
        ({"views": (VIEW, VIEW)}, "declares the view 'card_live' twice"),
        ({"views": (replace(VIEW, live=None, windows=VIEW.windows[:1]),)}, "'card_live', which is not live"),
        ({"views": (replace(VIEW, sources=(replace(PAYMENTS, name="p2"),)),)}, "and its topic carries 'payments'"),
        ({"topic": replace(TOPIC, without=("amount",))}, "needs 'amount', which the messages of its topic do not have"),
        ({"topic": replace(TOPIC, without=("card",))}, "needs 'card'"),
        ({"views": ()}, "looks up the live view 'card_live', and does not keep it"),
        (
            {"topic": replace(TOPIC, source=NO_UNIQUE), "views": (replace(VIEW, sources=(NO_UNIQUE,)),)},
            "has no `unique` columns",
        ),
        ({"answers": replace(CHECK, request=(*CHECK.request, RequestField("shop", "string")))}, "'shop' is no column"),
        ({"answers": replace(CHECK, request=(CHECK.request[0], RequestField("amount", "string")))}, "is a string"),
        ({"answers": replace(CHECK, output="amount")}, "declares the column 'amount' twice"),
        ({"answers": replace(CHECK, output="late")}, "declares the column 'late' twice"),
        ({"answers": replace(SPENT, features=OTHER)}, "whose features are none of its views"),
        ({"answers": replace(SPENT, model=SqlModel({"spend": "sum_1d"}))}, "whose model is SQL expressions"),
        ({"answers": replace(SPENT, publish=Publish(backend="redis"))}, "is published to redis"),
        (
            {"answers": SPENT, "to": (Table(), LiveRows(keep_h=6))},
            "'cards' answers by the pipeline 'spender' and declares LiveRows(keep_h=6). Write `LiveRows()`",
        ),
    ],
)  # fmt: skip
def test_what_a_stream_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        replace(STREAM, **changes)
    assert message in str(refused.value)


def test_a_stream_does_not_rank() -> None:
    ranks = Realtime(
        "rank", request=(RequestField("card", "bigint"),), candidates=Candidates((RequestField("item", "string"),)),
        transform=check, features=(Feature("score"),), model=FunctionModel(check), fallbacks=(OrderGiven(),),
    )  # fmt: skip
    with pytest.raises(SettingsError, match="'rank', which ranks candidates"):
        replace(STREAM, answers=ranks)
