"""Declarations of streams and live views: what they say, and what follows from them."""

from dataclasses import replace
from pathlib import Path

import pytest
from declared_streams import CHECK, SPENT, STREAM, TOPIC, view
from live_view_sample import PAYMENTS, VIEW

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import load_settings
from forecache.declare import (
    FeatureView,
    Live,
    LiveRows,
    Publish,
    Stream,
    Table,
    ToTopic,
    Where,
    Window,
    load_stream,
)
from forecache.declare.features.live import build_merge_plan
from forecache.declare.loading import load_served, read_project
from forecache.kit.windows.plan import LAST_DAY
from forecache.stream.live_layers import layers_of

PLAIN_FINGERPRINT, PLAIN_CONTRACT = "3cb9e7518dd02217", "28504cccd9630e1b"


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
    unpublished = replace(SPENT, publish=None)
    for answers, to in ((CHECK, (Table(), LiveRows())), (SPENT, (Table(), LiveRows())), (unpublished, (Table(),))):
        assert Stream("cards", TOPIC, views=(VIEW,), answers=answers).to == to
    only = Stream("only", topic=TOPIC, views=(VIEW,))
    assert (only.key, only.output_columns, only.live_rows, only.live_names) == ((), (), None, ("card_live",))


def test_answers_to_events_are_kept_as_declared_and_those_to_keys_until_versions_include_them() -> None:
    for declared, keep_h in ((LiveRows(), 24.0), (LiveRows(keep_h=6), 6)):
        layer = layers_of(replace(STREAM, to=(Table(), declared)))["cards"]
        assert (layer.keep_h, layer.replaces_rows) == (keep_h, False)
    layer = layers_of(replace(STREAM, answers=SPENT))["spender"]
    assert (layer.keep_h, layer.replaces_rows) == (None, True)


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
    names = [column.name for column in build_merge_plan(declared).base_columns]
    assert names == [LAST_DAY, "state_count_rows_6d", "state_count_rows_5d", "state_c_lag1", "state_c_lag2"]
    assert declared.live_states == tuple(names)
    assert view(Window("m", "count", minutes=30)).longest_window_days == 2


def write_project(folder: Path, content: str) -> None:
    package = folder / "streamed_project" / "pipelines"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.write_text("")
    (package / "cards.py").write_text(content)


DECLARED = """
from live_view_sample import PAYMENTS, VIEW
from forecache.declare import Stream, Topic

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
