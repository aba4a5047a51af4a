"""What `get`, `explain`, `versions`, `diff`, `rollback` and `push` say of a store with a live layer."""

import json
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from live_support import live_row
from store_services import redis_server
from store_tables import predictions, write_night
from stream_rows import STREAM, StreamTable

from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.serve.store import Field, KeyColumn, KeySchema, Store, open_store
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.writer import LiveWriter, open_live_writer

NIGHTS = (date(1998, 6, 29), date(1998, 6, 30))
OTHERS = {f"1{number:04}": number / 100 for number in range(100)}
KEY = KeySchema((KeyColumn("customer_id", "string"),))
FIELDS = (Field("churn_probability", "double"), Field("risk_segment", "string"))
LAYER = LiveLayer(STREAM, f"stream_{STREAM}", "rows", KEY, FIELDS, event_time="clicked_at")
CLICKED = datetime(1998, 7, 1, 8, 30, tzinfo=timezone.utc)
CLICKED_US = int(CLICKED.timestamp() * 1e6)
VALUE = {"churn_probability": 0.9, "risk_segment": "high"}


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON answer of a command that has to succeed."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Store:
    """Two versions of churn; in the second one, "00001" has 0.75."""
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    for night, score in zip(NIGHTS, (0.25, 0.75), strict=True):
        write_night(load_settings(), predictions({"00001": score, **OTHERS}, night=night), night=night)
        answer(capsys, "publish", "churn", "--unchecked")
    return open_store(load_settings(), "churn")


@pytest.fixture
def writer(store: Store) -> Iterator[LiveWriter]:
    """The stream's table has "00001" at position 1, behind another key's row at 0; both are in the live layer."""
    table = StreamTable(load_settings())
    row = {"clicked_at": CLICKED, **VALUE, "model_version": 3, "release": 5}
    assert table.commit([{"customer_id": "00009", **row}]) == 0
    assert table.commit([{"customer_id": "00002", **row}, {"customer_id": "00001", **row}]) == 1
    write_layer(store.layout, LAYER)
    with open_live_writer(store.layout) as writer:
        made = live_row(0, VALUE, event_us=CLICKED_US)
        writer.apply(0, [(b"00009", made)])
        writer.apply(1, [(key, live_row(1, VALUE, event_us=CLICKED_US)) for key in (b"00002", b"00001")])
        yield writer


@pytest.mark.usefixtures("writer")
def test_get_answers_from_the_live_layer_and_from_a_version_where_one_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    live = answer(capsys, "get", "churn", "00001")
    assert (live["source"], live["position"], live["value"]) == ("live", 1, VALUE)
    assert answer(capsys, "get", "churn", "00001", "--version", "1")["value"]["churn_probability"] == 0.25
    shown = text(capsys, "get", "churn", "00001", "10001")
    assert "live: position 1, event at 1998-07-01T08:30:00Z" in shown
    assert "precomputed: store version 2" in shown


@pytest.mark.usefixtures("writer")
def test_explain_follows_a_live_answer_to_the_row_and_its_place_in_kafka(capsys: pytest.CaptureFixture[str]) -> None:
    chain = answer(capsys, "explain", "churn", "00001")
    live = chain["live"]
    assert (live["stream"], live["table"], live["position"], live["place"]) == (STREAM, f"stream_{STREAM}", 1, 1)
    assert (live["kafka_partition"], live["kafka_offset"]) == (0, 2)
    assert (live["model_version"], live["release"], live["late"]) == (3, 5, False)
    assert live["row"]["churn_probability"] == 0.9
    assert chain["store"]["version"] == 2
    shown = text(capsys, "explain", "churn", "00001")
    assert f"streamed row in stream_{STREAM} at position 1, place 1" in shown
    assert "Kafka partition 0, offset 2" in shown
    assert "below it, store version 2" in shown
    assert "live" not in answer(capsys, "explain", "churn", "10001")
    assert "live" not in answer(capsys, "explain", "churn", "00001", "--version", "2")


@pytest.mark.usefixtures("writer")
def test_explain_follows_the_answer_of_a_version_to_the_streamed_row_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "publish", "churn", "--unchecked")
    chain = answer(capsys, "explain", "churn", "00001")
    assert (chain["answer"]["source"], chain["answer"]["value"], chain["store"]["version"]) == ("precomputed", VALUE, 3)
    assert (chain["live"]["position"], chain["live"]["place"], chain["live"]["kafka_offset"]) == (1, 1, 2)
    assert chain["live"]["row"]["churn_probability"] == 0.9
    assert chain["prediction"]["row"]["churn_probability"] == 0.75
    shown = text(capsys, "explain", "churn", "00001")
    assert f"streamed row in stream_{STREAM} at position 1, place 1" in shown
    assert "the version below has this row instead of its batch's" in shown
    assert "below it" not in shown
    assert "live" not in answer(capsys, "explain", "churn", "10001")


def test_explain_says_that_a_pending_row_is_in_no_commit_yet(
    store: Store, writer: LiveWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_pending_writer(store.layout, committed={0: 3}, version=1) as pending:
        pending.put(1, [(b"00001", live_row(0, VALUE, event_us=CLICKED_US))], {0: 4})
        live = answer(capsys, "explain", "churn", "00001")["live"]
    assert live["position"] is None
    assert "pending" in live["missing"]
    assert writer.entries == 3


@pytest.mark.usefixtures("writer")
def test_versions_diff_and_rollback_count_the_live_rows_above_each(
    store: Store, writer: LiveWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    writer.mark_verified(1)
    shown = text(capsys, "store", "versions", "churn")
    assert f"live layer of the stream {STREAM}: 3 rows, up to version 1 of stream_{STREAM}, verified at 1" in shown
    diff = answer(capsys, "store", "diff", "churn", "1", "2")
    assert diff["live"]["above"] == {"1": 3, "2": 3}
    assert "3 keys have a row above version 2" in text(capsys, "store", "diff", "churn", "1", "2")
    back = answer(capsys, "rollback", "churn", "--keep-model")
    assert (back["version"], back["live"]["above"], back["live"]["verified_through"]) == (1, {"1": 3}, 1)
    assert answer(capsys, "get", "churn", "00001")["source"] == "live"
    assert f"3 streamed rows of {STREAM} answer, as before" in text(capsys, "store", "pin", "churn", "1")
    assert store.pointer().serving == 1


def test_a_store_of_a_stream_alone_is_read_listed_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    settings = load_settings()
    layout = open_store(settings, STREAM).layout
    table = StreamTable(settings)
    assert table.commit([{"customer_id": "00001", "clicked_at": CLICKED, **VALUE}]) == 0
    write_layer(layout, LAYER)
    with open_live_writer(layout) as writer:
        writer.apply(0, [(b"00001", live_row(0, VALUE, event_us=CLICKED_US))])
        assert answer(capsys, "get", STREAM, "00001")["source"] == "live"
        assert "Live layer of the stream clicks: 1 rows" in text(capsys, "store", "versions", STREAM)
        chain = answer(capsys, "explain", STREAM, "00001")
        assert (chain["live"]["kafka_offset"], set(chain)) == (0, {"answer", "live"})
        assert "streamed row in stream_clicks" in text(capsys, "explain", STREAM, "00001")
        assert main(["get", STREAM, "nobody"]) == 3
        assert main(["explain", STREAM, "nobody"]) == 3


@pytest.mark.usefixtures("writer")
def test_redis_refuses_a_store_with_a_live_layer_in_one_sentence(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecache.base.errors import SettingsError
    from forecache.plugins.redis.versions import open_redis_store

    with redis_server(tmp_path / "redis") as port:
        remote = open_redis_store(load_settings(redis_url=f"redis://127.0.0.1:{port}"), "churn")
        with pytest.raises(SettingsError, match="churn has a live layer, and Redis serves versions alone"):
            remote.load(store)
        assert remote.current() is None
