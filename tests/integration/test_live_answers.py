"""The live layer through the reader: every way to read it says the same, and a swap, a rollback and a kill keep it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from live_support import LAYER, NOON_US, live_row, live_store
from reader_support import RunningReader, running_reader, write_version
from waiting import eventually

from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import write_pointer
from forecache.serve.reader import Client
from forecache.serve.store import Store
from forecache.serve.store.live.layer import write_layer
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.writer import LiveWriter, open_live_writer
from forecache.serve.store.manifest import StalePolicy

ROWS = {f"c{i}": {"churn_probability": 0.5, "risk_segment": "batch"} for i in range(60)}
OF_MODEL = {"model_version": 4, "release": 2, "feature_version": "churn_features=2026-11-24@7"}
STREAMED = {"churn_probability": 7.0, "risk_segment": "streamed"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def reader(home: Settings) -> Iterator[RunningReader]:
    write_version(home.store_path, "churn", ROWS, cut=10, stream="cards")
    live_store(home.store_path)
    live_store(home.store_path, "cards")
    with running_reader(home, reader_workers=2) as reader:
        yield reader


@pytest.fixture(scope="module")
def writer(home: Settings, reader: RunningReader) -> Iterator[LiveWriter]:
    with open_live_writer(Store(home.store_path / "churn").layout) as writer:
        rows = [(b"c1", live_row(11, 7, provenance=OF_MODEL)), (b"c2", live_row(10, 8)), (b"new", live_row(11, 9))]
        writer.apply(11, rows)
        writer.mark_verified(11)
        # Both workers have seen the row, and what it was verified through, which a reader looks at now and then.
        assert eventually(lambda: all(_one(reader, "c1").get("verified_through") == 11 for _ in range(20)))
        yield writer


def _one(reader: RunningReader, key: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{reader.url}/v1/churn/{key}").json()
    return answer


def _source(reader: RunningReader, key: str) -> str:
    return str(_one(reader, key).get("source"))


@pytest.mark.usefixtures("writer")
class TestReading:
    """Of a pipeline: "c1" and "new" above the cut, "c2" at it, the others in the version alone."""

    def test_one_live_answer_says_what_it_is(self, reader: RunningReader) -> None:
        before = time.time()
        answer = httpx.get(f"{reader.url}/v1/churn/c1").json()
        assert before - 1 <= answer.pop("age_s") + NOON_US / 1e6 <= time.time() + 1
        assert answer == {
            "key": "c1",
            "value": STREAMED,
            "source": "live",
            "position": 11,
            "event_time": "1998-06-23T12:00:00.000000Z",
            "verified_through": 11,
            **OF_MODEL,
            "stale": True,
        }

    def test_a_row_at_the_cut_leaves_the_answer_to_the_version(self, reader: RunningReader) -> None:
        answer = httpx.get(f"{reader.url}/v1/churn/c2").json()
        assert (answer["source"], answer["store_version"], answer["value"]) == ("precomputed", 1, ROWS["c2"])

    def test_fields_are_chosen_from_a_live_row_as_from_others(self, reader: RunningReader) -> None:
        one = httpx.get(f"{reader.url}/v1/churn/c1?fields=risk_segment").json()
        assert one["value"] == {"risk_segment": "streamed"}
        many = httpx.post(f"{reader.url}/v1/churn", json={"keys": ["c1", "c3"], "fields": ["risk_segment"]}).json()
        assert [row["value"] for row in many["results"]] == [{"risk_segment": "streamed"}, {"risk_segment": "batch"}]

    @pytest.mark.parametrize("others", [1, 50])
    def test_many_answers_mark_the_live_ones(self, reader: RunningReader, others: int) -> None:
        keys = ["new", *(f"c{i}" for i in range(others + 2)), "nobody"]
        body = httpx.post(f"{reader.url}/v1/churn", json={"keys": keys}).json()
        rows = {row["key"]: row for row in body["results"]}
        assert body["source"] == "precomputed"
        assert {key for key, row in rows.items() if row.get("source") == "live"} == {"new", "c1"}
        assert {key for key, row in rows.items() if not row["found"]} == {"nobody"}
        assert (rows["c1"]["position"], rows["c1"]["release"], rows["c1"]["value"]) == (11, 2, STREAMED)
        assert rows["c2"] == {"key": "c2", "found": True, "value": ROWS["c2"]}

    def test_the_client_tells_live_answers_from_precomputed_ones(self, reader: RunningReader) -> None:
        with Client(reader.url) as client:
            live, batch, nobody = client.get_many("churn", ["c1", "c2", "nobody"])
            one = client.get("churn", "c1")
        assert one is not None
        assert (live.source, live.position, live.verified_through, live.model_version) == ("live", 11, 11, 4)
        assert live.event_time is not None
        assert (live.event_time.timestamp(), live.store_version, live.published_at) == (NOON_US / 1e6, -1, None)
        assert replace(one, age_s=0) == replace(live, age_s=0)
        assert (batch.source, batch.position, batch.event_time, nobody.found) == ("precomputed", None, None, False)

    def test_the_feast_route_gives_a_live_row_the_time_of_its_event(self, reader: RunningReader) -> None:
        body = {"entities": {"customer_id": ["c1", "c2"]}, "features": ["churn:risk_segment"]}
        column = httpx.post(f"{reader.url}/get-online-features", json=body).json()["results"][1]
        assert column["values"] == ["streamed", "batch"]
        assert column["event_timestamps"][0] == "1998-06-23T12:00:00Z"
        assert column["event_timestamps"][1] > "2020"

    def test_a_live_answer_is_never_taken_for_unchanged(self, reader: RunningReader) -> None:
        answer = httpx.get(f"{reader.url}/v1/churn/c1", headers={"if-none-match": "*"})
        assert (answer.status_code, answer.headers.get("etag")) == (200, None)

    def test_the_metadata_and_the_history_tell_of_the_layer(self, reader: RunningReader) -> None:
        live = httpx.get(f"{reader.url}/v1/churn").json()["live"]
        assert live == {
            "stream": "cards", "table": "stream_cards", "keys": 3, "pending": 0, "applied": 11, "verified_through": 11,
            "cut": 10,
        }  # fmt: skip
        version = httpx.get(f"{reader.url}/versions/churn").json()["versions"][-1]
        assert (version["stream"], version["cut"]) == ("cards", 10)
        status = httpx.get(f"{reader.url}/status.json").json()
        assert all(row["live"]["stream"] == "cards" for row in status["versions"] if row["name"] in ("cards", "churn"))

    def test_pending_rows_are_seen_within_milliseconds_of_their_put(
        self, reader: RunningReader, home: Settings
    ) -> None:
        layout = Store(home.store_path / "churn").layout
        with open_pending_writer(layout, committed={0: 0}, version=11) as pending:
            pending.put(1, [(b"first", live_row(0, 1))], {0: 1})
            assert eventually(lambda: all(_source(reader, "first") == "live" for _ in range(20)))
            took = []
            with httpx.Client(base_url=reader.url) as http:
                for number in range(2, 60):
                    pending.put(1, [(b"first", live_row(0, number))], {0: number})
                    began = time.monotonic()
                    while http.get("/v1/churn/first").json()["value"]["churn_probability"] != number:
                        assert time.monotonic() < began + 30
                    took.append(time.monotonic() - began)
                assert http.get("/v1/churn/first").json()["position"] is None
            assert sorted(took)[len(took) // 2] < 0.05
        assert _source(reader, "first") == "live"  # the engine is gone, its row is not


def test_a_store_without_a_version_serves_what_the_stream_has(home: Settings, reader: RunningReader) -> None:
    assert eventually(lambda: httpx.get(f"{reader.url}/v1/cards/t1").status_code == 404)
    with open_live_writer(Store(home.store_path / "cards").layout) as writer:
        writer.apply(0, [(b"t1", live_row(0, 7))])
        # Each worker looks for itself.
        assert eventually(lambda: all(httpx.get(f"{reader.url}/v1/cards/t1").status_code == 200 for _ in range(20)))
    answer = httpx.get(f"{reader.url}/v1/cards/t1").json()
    assert (answer["source"], answer["position"], answer["value"], answer["stale"]) == ("live", 0, STREAMED, False)
    many = httpx.post(f"{reader.url}/v1/cards", json={"keys": ["t1", "t2"]}).json()
    assert ([row["found"] for row in many["results"]], many["source"], many["stream"]) == (
        [True, False],
        "live",
        "cards",
    )
    missing = httpx.get(f"{reader.url}/v1/cards/t2")
    assert missing.status_code == 404
    assert "the stream cards" in missing.json()["detail"]
    listed = {row["pipeline"]: row["store_version"] for row in httpx.get(f"{reader.url}/v1").json()["pipelines"]}
    assert listed["cards"] is None
    with Client(reader.url) as client:
        assert [each.found for each in client.get_many("cards", ["t1", "t2"])] == [True, False]
    assert httpx.get(f"{reader.url}/v1/cards").json()["live"]["applied"] == 0
    assert httpx.get(f"{reader.url}/status").status_code == 200
    assert httpx.get(f"{reader.url}/metrics").status_code == 200
    assert httpx.get(f"{reader.url}/readyz").status_code == 200


def test_publish_and_rollback_swap_under_the_same_live_layer(home: Settings, reader: RunningReader) -> None:
    layout = live_store(home.store_path, "swapped")
    write_version(home.store_path, "swapped", ROWS, cut=1, stream="cards")

    def sources() -> list[Any]:
        rows = httpx.post(f"{reader.url}/v1/swapped", json={"keys": ["c1", "c2"]}).json()
        return [rows.get("store_version"), *(row.get("source", "version") for row in rows.get("results", ()))]

    def always(wanted: list[Any]) -> bool:
        """In every worker."""
        return eventually(lambda: all(sources() == wanted for _ in range(20)))

    with open_live_writer(layout) as writer:
        writer.apply(2, [(b"c1", live_row(2, 7))])
        writer.apply(3, [(b"c2", live_row(3, 7))])
        assert always([1, "live", "live"])
        write_version(home.store_path, "swapped", ROWS | {"c1": STREAMED}, cut=2, stream="cards")
        assert always([2, "version", "live"])
        write_pointer(layout, Store(layout.root).pointer().advance(current=1, pinned=None))
        assert always([1, "live", "live"])


def test_a_version_too_old_is_refused_and_what_a_stream_made_today_is_not(
    home: Settings, reader: RunningReader
) -> None:
    layout = live_store(home.store_path, "old")
    rows = {key: ROWS[key] for key in ("c1", "c2")}
    write_version(home.store_path, "old", rows, as_of="1998-06-30", policy=StalePolicy(24.0, "refuse"), stream="cards")
    wanted = {"c1": 200, "c2": 503, "long_ago": 503}
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"c1", live_row(1, 7, event_us=time.time_ns() // 1000)), (b"long_ago", live_row(1, 7))])
        found = {}

        def as_wanted() -> bool:
            found.update({key: httpx.get(f"{reader.url}/v1/old/{key}").status_code for key in wanted})
            return found == wanted

        assert eventually(lambda: all(as_wanted() for _ in range(10))), found
        assert httpx.post(f"{reader.url}/v1/old", json={"keys": ["c1"]}).status_code == 200
        assert httpx.post(f"{reader.url}/v1/old", json={"keys": ["c1", "c2"]}).status_code == 503


def test_a_layer_that_is_declared_later_is_taken_up_and_one_that_is_gone_left(
    home: Settings, reader: RunningReader
) -> None:
    write_version(home.store_path, "later", ROWS)
    layout = Store(home.store_path / "later").layout
    assert eventually(lambda: "etag" in httpx.get(f"{reader.url}/v1/later/c1").headers)
    write_layer(layout, LAYER)
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"c1", live_row(1, 7))])
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/later/c1").json().get("source") == "live")
    layout.live.unlink()
    assert eventually(lambda: httpx.get(f"{reader.url}/v1/later/c1").json().get("source") == "precomputed")
