"""Declarations of streams and live views: what is refused when they load, and what they say."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from live_view_sample import PAYMENTS, VIEW

from forecache.errors import InputError, NotFoundError, SettingsError
from forecache.pipeline import (
    Avro,
    Candidates,
    Column,
    Default,
    Feature,
    FeatureView,
    FunctionModel,
    Live,
    LiveRows,
    Lookup,
    OrderGiven,
    Output,
    Pipeline,
    Publish,
    Realtime,
    RequestField,
    Schedule,
    Source,
    SqlModel,
    Stream,
    Table,
    Topic,
    ToTopic,
    Where,
    Window,
    load_stream,
)
from forecache.pipeline.loading import load_served, read_project
from forecache.pipeline.streams.plan import plan_of
from forecache.settings import load_settings
from forecache.stream.layers import layers_of
from forecache.windows.plan import LAST_DAY


def check(rows: Any) -> Any:
    return rows


TOPIC = Topic("payments", topic="payments.v1", source=PAYMENTS, without=("fraud",))
CHECK = Realtime(
    "check",
    request=(RequestField("card", "bigint"), RequestField("amount", "double", default=0.0)),
    lookups=(Lookup(VIEW),),
    transform=check,
    features=(Feature("score"),),
    model=FunctionModel(check),
    ladder=(Default(0.5),),
)
SPENT = Pipeline(
    "spender", ("card",), VIEW, FunctionModel(check), outputs=(Output("spend"),), sources=(PAYMENTS,)
)  # fmt: skip
STREAM = Stream("cards", topic=TOPIC, views=(VIEW,), answers=CHECK, to=(Table(), LiveRows()))


def view(*windows: Window, **declared: Any) -> FeatureView:
    given = {"publish": Publish(), "live": Live(), **declared}
    return FeatureView("v", ("card",), (PAYMENTS,), windows=windows or (Window("n", "count", 2),), **given)


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


PLAIN_FINGERPRINT, PLAIN_CONTRACT = "156700254554bdab", "577ffdf53d46f7e1"
OTHER = replace(VIEW, name="other")
NO_UNIQUE = replace(PAYMENTS, unique=())


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
        transform=check, features=(Feature("score"),), model=FunctionModel(check), ladder=(OrderGiven(),),
    )  # fmt: skip
    with pytest.raises(SettingsError, match="'rank', which ranks candidates"):
        replace(STREAM, answers=ranks)


def test_a_stream_says_where_its_rows_go() -> None:
    assert (STREAM.table, STREAM.quarantine_table) == ("stream_cards", "stream_quarantine_cards")
    assert (STREAM.key, STREAM.output_columns) == (("payment",), ("score",))
    assert STREAM.live_names == ("card_live", "cards")
    assert [column.name for column in TOPIC.columns] == ["payment", "card", "at", "amount", "pieces"]
    of_keys = replace(STREAM, answers=SPENT, to=(Table(), LiveRows(), ToTopic("spend")))
    assert (of_keys.key, of_keys.output_columns, of_keys.live_names) == (
        ("card",),
        ("spend",),
        ("card_live", "spender"),
    )
    assert of_keys.to_topic == ToTopic("spend")
    only = Stream("only", topic=TOPIC, views=(VIEW,))
    assert (only.key, only.output_columns, only.live_rows, only.live_names) == ((), (), None, ("card_live",))


def test_answers_to_events_are_kept_as_declared_and_those_to_keys_until_versions_include_them() -> None:
    for declared, keep_h in ((LiveRows(), 24.0), (LiveRows(keep_h=6), 6)):
        layer = layers_of(replace(STREAM, to=(Table(), declared)))["cards"]
        assert (layer.keep_h, layer.replaces) == (keep_h, False)
    layer = layers_of(replace(STREAM, answers=SPENT))["spender"]
    assert (layer.keep_h, layer.replaces) == (None, True)


def test_a_fingerprint_follows_what_decides_the_rows() -> None:
    assert STREAM.fingerprint == replace(STREAM, engine="spark", commit_s=2.0, description="x").fingerprint
    assert STREAM.fingerprint == replace(STREAM, keep_features=True).fingerprint
    for changed in (replace(STREAM, late_days=1), replace(STREAM, topic=replace(TOPIC, topic="t2"))):
        assert changed.fingerprint != STREAM.fingerprint


def test_a_view_keeps_its_fingerprint_and_contract_where_it_is_not_live() -> None:
    """Those that were published before there were live views."""
    plain = FeatureView(
        "v", ("card",), (PAYMENTS,), publish=Publish(),
        windows=(Window("n", "count", 2), Window("m", "mean", 7, "amount", where=(Where("pieces", ">", 0),))),
    )  # fmt: skip
    assert (plain.fingerprint, plain.packed.contract) == (PLAIN_FINGERPRINT, PLAIN_CONTRACT)
    live = replace(plain, live=Live())
    assert live.features_fingerprint == plain.fingerprint != live.fingerprint
    assert live.packed.contract != plain.packed.contract
    assert replace(live, live=Live(nights=3)).packed.contract == live.packed.contract
    assert live.tile_fingerprint == plain.tile_fingerprint


def test_a_plan_has_a_state_for_each_length_and_lag() -> None:
    declared = view(Window("a", "count", 1), Window("b", "count", 7), Window("c", "count", 3, delay_days=2))
    names = [column.name for column in plan_of(declared).base_columns]
    assert names == [LAST_DAY, "state_count_rows_6d", "state_count_rows_5d", "state_c_lag1", "state_c_lag2"]
    assert declared.live_states == tuple(names)
    assert view(Window("m", "count", minutes=30)).longest == 2


def write_project(folder: Path, content: str) -> None:
    package = folder / "streamed_project" / "pipelines"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.write_text("")
    (package / "cards.py").write_text(content)


DECLARED = """
from live_view_sample import PAYMENTS, VIEW
from forecache.pipeline import Stream, Topic

CARDS = Stream("cards", topic=Topic("payments", topic="payments", source=PAYMENTS), views=(VIEW,))
"""


def test_streams_are_found_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path, DECLARED)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = load_settings(home=tmp_path / "home", project="streamed_project")
    project = read_project(settings)
    assert not project.broken
    assert list(project.streams) == ["cards"]
    assert list(project.views) == ["card_live"]
    assert load_stream(settings, "cards").views == (VIEW,)
    with pytest.raises(NotFoundError, match="There is no stream 'card'.*Did you mean 'cards'"):
        load_stream(settings, "card")
    with pytest.raises(InputError, match="'cards' is a stream"):
        load_served(settings, "cards")
