"""The clients against a real reader, and against servers that fail in the ways networks do."""

import asyncio
import http.server
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
from free_ports import free_port
from reader_support import RunningReader, churn_rows, running_reader, write_version, yesterday

from forecache.base.errors import InputError, NotFoundError, UnavailableError
from forecache.base.settings import load_settings
from forecache.serve.reader import Answer, AsyncClient, Client, create_token
from forecache.serve.store import Field, KeyColumn, KeySchema, Provenance
from forecache.serve.store.manifest import StalePolicy

ROWS = churn_rows(2500) | {
    key: {"churn_probability": 0.5, "risk_segment": key} for key in ("versions", ".", "..", "a/?b")
}
OLD = Provenance("churn", 2, 5, "2026-11-20T01:00:00.000000Z", "run-2")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return path, create_token(path, "test", ["churn", "visits", "old", "nope"])[0]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, token: tuple[Path, str]) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_version(settings.store_path, "churn", ROWS, carried={"00007": OLD})
    key = KeySchema((KeyColumn("shop", "string"), KeyColumn("visit", "int")))
    write_version(
        settings.store_path, "visits", {("a|%", 1): {"score": 1.5}}, key=key, fields=(Field("score", "double"),)
    )
    write_version(settings.store_path, "old", churn_rows(1), as_of="1998-06-30", policy=StalePolicy(1.0, "refuse"))
    with running_reader(settings, reader_tokens=str(token[0])) as running:
        yield running


@pytest.fixture
def client(reader: RunningReader, token: tuple[Path, str]) -> Iterator[Client]:
    with Client(reader.url, token=token[1]) as client:
        yield client


def test_an_answer_is_typed(client: Client) -> None:
    answer = client.get("churn", "00042")
    assert isinstance(answer, Answer)
    assert answer.value == ROWS["00042"]
    assert (answer.key, answer.found, answer.source, answer.store_version) == ("00042", True, "precomputed", 1)
    assert (answer.model_name, answer.model_version, answer.stale) == ("churn", 3, False)
    assert answer.as_of == date.fromisoformat(yesterday())
    assert answer.scored_at == datetime(2026, 11, 25, 1, tzinfo=timezone.utc)
    carried = client.get("churn", "00007")
    assert carried is not None
    assert (carried.model_version, carried.scored_at.day) == (2, 20)


def test_a_missing_key_is_none_and_an_unknown_pipeline_an_error(client: Client) -> None:
    assert client.get("churn", "nobody") is None
    with pytest.raises(NotFoundError, match="nope"):
        client.get("nope", "1")
    with pytest.raises(InputError, match="cannot be a pipeline"):
        client.get("../churn", "1")


@pytest.mark.parametrize("key", ["versions", ".", "..", "a/?b"])
def test_keys_that_a_path_could_mistake_are_found(client: Client, key: str) -> None:
    answer = client.get("churn", key)
    assert answer is not None
    assert answer.value == ROWS[key]


def test_composite_and_integer_keys(client: Client) -> None:
    answer = client.get("visits", ("a|%", 1))
    assert answer is not None
    assert answer.value == {"score": 1.5}
    assert [answer.found for answer in client.get_many("visits", [("a|%", 1), ("x", 2)])] == [True, False]


def test_many_keys_are_asked_in_batches_and_come_in_order(client: Client) -> None:
    keys = [f"{index:05d}" for index in range(2499, -1, -1)]
    keys[1234] = "nobody"
    answers = client.get_many("churn", keys, fields=["risk_segment"])
    assert [answer.key for answer in answers] == keys
    assert [answer.found for answer in answers].count(False) == 1
    assert answers[1234].value is None
    assert answers[0].value == {"risk_segment": ROWS[keys[0]]["risk_segment"]}
    assert client.get_many("churn", []) == []


def test_what_the_reader_says_of_itself(client: Client) -> None:
    assert client.metadata("churn")["keys"] == len(ROWS)
    assert [row["store_version"] for row in client.versions("churn")] == [1]
    assert [row["pipeline"] for row in client.pipelines()] == ["churn", "old", "visits"]


def test_a_refused_stale_answer_is_an_error_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it asks again after a pause"))
    with pytest.raises(UnavailableError, match="1998-06-30"):
        client.get("old", "00000")


def test_a_wrong_token_or_field_is_an_error(reader: RunningReader, client: Client) -> None:
    with Client(reader.url, token="wrong") as stranger, pytest.raises(InputError, match="token"):
        stranger.get("churn", "00001")
    with pytest.raises(InputError, match="no field 'x'"):
        client.get("churn", "00001", fields=["x"])


def test_the_asynchronous_client_does_the_same(reader: RunningReader, token: tuple[Path, str]) -> None:
    async def ask() -> None:
        async with AsyncClient(reader.url, token=token[1]) as client:
            answers = await asyncio.gather(*(client.get("churn", f"{index:05d}") for index in range(50)))
            assert [answer.value for answer in answers if answer] == [ROWS[f"{index:05d}"] for index in range(50)]
            assert await client.get("churn", "nobody") is None
            assert len(await client.get_many("churn", [f"{index:05d}" for index in range(1500)])) == 1500
            assert (await client.metadata("churn"))["store_version"] == 1
            assert len(await client.versions("churn")) == 1
            assert len(await client.pipelines()) == 3
            with pytest.raises(NotFoundError):
                await client.metadata("nope")

    asyncio.run(ask())


class Flaky(http.server.BaseHTTPRequestHandler):
    """Plays a list of failures, then answers."""

    plan: ClassVar[list[Any]] = []
    asked: ClassVar[int] = 0
    goes_on: ClassVar[threading.Event] = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        type(self).asked += 1
        step = self.plan.pop(0) if self.plan else 200
        if step == "hang":
            self.goes_on.wait(60)
        if step in ("hang", "drop"):
            self.close_connection = True
            return
        status, headers = step if isinstance(step, tuple) else (step, {})
        body = orjson.dumps({"pipelines": [{"pipeline": "churn"}]} if status == 200 else {"detail": "not now"})
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Flaky.asked = 0
    Flaky.goes_on.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    Flaky.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "plan", [["drop"], ["drop", "drop", 503], [429, 502, 504], [(503, {"retry-after": "0"})], ["hang"]]
)
def test_failures_that_pass_are_tried_again(flaky: str, plan: list[Any]) -> None:
    Flaky.plan = list(plan)
    with Client(flaky, timeout_s=2.0 if plan == ["hang"] else 60.0, deadline_s=60.0, backoff_s=0.01) as client:
        assert client.pipelines() == [{"pipeline": "churn"}]
    # On a machine that stands still another attempt may last for two seconds, too.
    assert Flaky.asked == len(plan) + 1 or (plan == ["hang"] and Flaky.asked > 2)


def test_failures_that_stay_are_an_error_after_the_last_attempt(flaky: str) -> None:
    Flaky.plan = [503] * 10
    with Client(flaky, retries=2, backoff_s=0.01) as client, pytest.raises(UnavailableError, match="not now"):
        client.pipelines()
    assert Flaky.asked == 3
    Flaky.plan = [500]
    with Client(flaky) as client, pytest.raises(UnavailableError):
        client.pipelines()
    assert Flaky.asked == 4, "a defect of the server is not asked for again"


def test_the_deadline_ends_the_attempts(flaky: str) -> None:
    Flaky.plan = [(503, {"retry-after": "30"})] * 3
    started = time.monotonic()
    with Client(flaky, deadline_s=10.0) as client, pytest.raises(UnavailableError):
        client.pipelines()
    assert time.monotonic() - started < 25, "less than the 30 s that it was asked to wait"
    assert Flaky.asked == 1


def test_a_reader_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, retries=1, backoff_s=0.01) as client, pytest.raises(UnavailableError, match=url):
        client.get("churn", "1")
