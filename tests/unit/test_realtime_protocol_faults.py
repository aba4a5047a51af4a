"""The same fault gets the same status and the same sentence over every protocol, and each answer ends in one order."""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from realtime_support import write_views
from release_support import make_release

from forecache.base.settings import load_settings
from forecache.kit.http.call import HttpCall
from forecache.realtime.answer.served_release import ServedRelease
from forecache.realtime.request.request_answer import (
    ModelCallError,
    NoScores,
    RefusedCallError,
    StageTimes,
    TooLate,
    WorkerLost,
)
from forecache.realtime.serve import make_extension
from forecache.serve.reader import create_token
from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.worker_metrics import BODIES_REFUSED, SLOT_BYTES
from forecache.serve.store import open_store

PROTOCOLS = ("native", "inference", "mlflow")
ERROR = {"native": "detail", "inference": "error", "mlflow": "message"}
BODY_BYTES = 20_000


@dataclass
class Asked:
    """A request as each protocol sends it; a change makes the fault."""

    model: str = "ranking"
    household: Any = 1
    products: list[Any] = field(default_factory=lambda: ["a", "b"])
    more: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"

    def path(self, protocol: str) -> tuple[str, str]:
        """The path and the query."""
        return {
            "native": (f"/v1/{self.model}", ""),
            "inference": (f"/v2/models/{self.model}/infer", ""),
            "mlflow": ("/invocations", f"model={self.model}"),
        }[protocol]

    def content(self, protocol: str) -> bytes:
        if self.body is not None:
            return self.body
        household = {} if self.household is None else {"household_id": self.household}
        if protocol == "native":
            candidates = [{"product_id": each} for each in self.products]
            return json.dumps({**household, "candidates": candidates, **self.more}).encode()
        columns = {**{name: [value] for name, value in {**household, **self.more}.items()}, "product_id": self.products}
        if protocol == "mlflow":
            return json.dumps({"inputs": columns}).encode()
        kinds = {int: "INT64", str: "BYTES", float: "FP64", bool: "BOOL"}
        tensors = [
            {"name": name, "datatype": kinds[type(values[0])], "shape": [len(values)], "data": values}
            for name, values in columns.items()
        ]
        return json.dumps({"inputs": tensors}).encode()


class Connection:
    """Keeps the reply to a call."""

    def __init__(self) -> None:
        self.replied = asyncio.Event()

    def respond(self, call: HttpCall, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, dict(headers), orjson.loads(body)
        self.replied.set()


@dataclass
class Reader:
    """A worker of the reader in this process."""

    app: ReaderApp

    @property
    def extension(self) -> Any:
        return self.app._extensions[0]

    @property
    def served(self) -> ServedRelease:
        found: ServedRelease = self.extension.models.served["ranking"]
        return found

    @property
    def queue(self) -> Any:
        return self.extension._find.__self__._handler._queue

    async def ask(self, protocol: str, asked: Asked) -> Connection:
        connection: Any = Connection()
        path, query = asked.path(protocol)
        headers = {"content-type": "application/json", **asked.headers}
        call = HttpCall(connection, asked.method, path, query, headers)
        call.body, call.arrived = asked.content(protocol), perf_counter_ns()
        later = self.app.handle(call)
        if later is not None:
            await later
        await asyncio.wait_for(connection.replied.wait(), 20)
        return connection  # type: ignore[no-any-return]


class BrokenPath:
    """A path to a model that gives no scores."""

    def __init__(self, error: Exception, *, in_loop: bool = True) -> None:
        self._error, self.in_loop, self.times = error, in_loop, StageTimes()

    def score_now(self, *_: Any) -> Any:
        raise self._error

    async def score(self, *_: Any) -> Any:
        raise self._error

    def expected_s(self) -> float:
        return 0.0

    def close(self) -> None: ...


class BrokenLookups:
    def is_remote(self) -> bool:
        return False

    def read(self, *_: Any) -> Any:
        raise RuntimeError("a defect")


def with_path(error: NoScores, *, in_loop: bool = True) -> Callable[[Reader], None]:
    def change(reader: Reader) -> None:
        reader.served.path = BrokenPath(error, in_loop=in_loop)  # type: ignore[assignment]

    return change


def break_lookups(reader: Reader) -> None:
    reader.served.lookups = BrokenLookups()  # type: ignore[assignment]


def take_all_memory(reader: Reader) -> None:
    reader.app._bodies.reserve(reader.app._bodies.free_bytes)


def unload(reader: Reader) -> None:
    reader.extension.models.served.clear()


def unload_damaged(reader: Reader) -> None:
    unload(reader)
    reader.extension.models.failures["ranking"] = "damaged"


def remove_view(reader: Reader) -> None:
    reader.app.catalog.answers.pop("household", None)


def fill_queue(reader: Reader) -> None:
    """One request waits, and the model needs hours: the next one is given up for it."""
    for _ in range(300):
        reader.queue.model_cost.add_sample(10**13)
    reader.queue.enqueue(SimpleNamespace(until=10**18), lambda why: None)


@dataclass
class Fault:
    """What is wrong with a request, or with the reader, and what every protocol says to it."""

    status: int
    says: str
    asked: Asked = field(default_factory=Asked)
    change: Callable[[Reader], None] = lambda reader: None
    is_prefix: bool = False


REFUSED = {
    "bad JSON": Fault(400, "The body is not JSON: ", Asked(body=b"{"), is_prefix=True),
    "no object": Fault(400, "The body is an array; send an object.", Asked(body=b"[]")),
    "compressed": Fault(
        415, "The body is compressed; send it as it is.",
        Asked(body=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}),
    ),
    "unknown model": Fault(
        404, "There is no pipeline or real-time model 'other'; GET /v1 lists what is served.", Asked(model="other")
    ),
    "other method": Fault(405, "PUT is not allowed at ", Asked(method="PUT"), is_prefix=True),
    "no time left": Fault(
        504, "The request has 0 ms left to be answered in, so nothing was computed; send a longer time.",
        Asked(headers={"x-deadline-ms": "0"}),
    ),
    "malformed deadline": Fault(
        400, "The header x-deadline-ms is 'soon'; it takes a number of milliseconds such as 40.",
        Asked(headers={"x-deadline-ms": "soon"}),
    ),
    "too large": Fault(
        413, f"The body is larger than {BODY_BYTES} bytes; split the request.", Asked(body=b" " * (BODY_BYTES + 1))
    ),
    "no memory": Fault(
        503, "The bodies of other requests take all the memory for bodies; ask again in a second.",
        change=take_all_memory,
    ),
    "missing field": Fault(
        400, "The request field 'household_id' is missing. It must be a whole number of 64 bits.",
        Asked(household=None),
    ),
    "unknown field": Fault(
        400, "The request has the unknown field 'colour'; it takes ", Asked(more={"colour": "red"}), is_prefix=True
    ),
    "wrong type": Fault(
        400, "The request field 'household_id' is 'one'. It must be a whole number of 64 bits.",
        Asked(household="one"),
    ),
    "number of another type": Fault(
        400, "The request field 'household_id' is 1.5. It must be a whole number of 64 bits.",
        Asked(household=1.5),
    ),
    "wrong type of a candidate": Fault(
        400, "At place 0 of the candidates: The request field 'product_id' is 5. It must be a text.",
        Asked(products=[5]),
    ),
    "key that no row can have": Fault(400, "The key", Asked(products=[""]), is_prefix=True),
    "too many candidates": Fault(
        422, "The request has 201 candidates; the most is 200. Send the likeliest.", Asked(products=["a"] * 201)
    ),
    "not loaded yet": Fault(503, "The reader is still loading the release of ranking.", change=unload),
    "damaged release": Fault(
        503, "The current release of ranking cannot be served; see the reader's log for the cause.",
        change=unload_damaged,
    ),
    "defect": Fault(500, "This is a defect; see the reader's log for the cause.", change=break_lookups),
}  # fmt: skip
FALLEN_BACK = {
    "deadline shorter than the model": Fault(200, "deadline", Asked(headers={"x-deadline-ms": "0.001"})),
    "model failed": Fault(200, "failed", change=with_path(ModelCallError())),
    "model failed elsewhere": Fault(200, "failed", change=with_path(ModelCallError(), in_loop=False)),
    "model too late elsewhere": Fault(200, "deadline", change=with_path(TooLate(), in_loop=False)),
    "worker process lost": Fault(200, "worker_lost", change=with_path(WorkerLost(), in_loop=False)),
    "call refused": Fault(200, "refused", change=with_path(RefusedCallError(), in_loop=False)),
    "view not served": Fault(200, "lookup", change=remove_view),
    "overload": Fault(200, "overload", change=fill_queue),
}


@pytest.fixture
def runtime() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES)
    yield runtime
    runtime.remove()


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.realtime.answer.in_loop.ENOUGH_NS", 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("reader")
    settings = load_settings(home=home)
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    return home


def ask(
    home: Path,
    runtime: ReaderSharedMemory,
    asked: Asked,
    change: Callable[[Reader], None] = lambda reader: None,
    **more: Any,
) -> dict[str, Connection]:
    """Ask a reader over each protocol, after changing it; the replies."""
    settings = load_settings(home=home, reader_max_body_bytes=BODY_BYTES, **more)

    async def run() -> dict[str, Connection]:
        app = ReaderApp(settings, runtime, (make_extension,))
        for name in ("household", "product"):
            app.catalog._follower.install(name, VersionAnswers(open_store(settings, name).snapshot()))
        app.catalog.warm = True
        reader = Reader(app)
        reader.extension.open(asyncio.get_running_loop())
        reader.extension.poll_changes(lambda action: action())
        replies = {}
        try:
            for protocol in PROTOCOLS:
                change(reader)
                replies[protocol] = await reader.ask(protocol, asked)
            return replies
        finally:
            app.close()

    return asyncio.run(run())


@pytest.mark.parametrize("name", REFUSED)
def test_every_protocol_refuses_with_the_same_status_and_sentence(
    home: Path, runtime: ReaderSharedMemory, name: str
) -> None:
    fault = REFUSED[name]
    replies = ask(home, runtime, fault.asked, fault.change)
    said = {protocol: (reply.status, reply.body[ERROR[protocol]]) for protocol, reply in replies.items()}
    if fault.is_prefix:
        said = {protocol: (status, sentence[: len(fault.says)]) for protocol, (status, sentence) in said.items()}
    assert said == dict.fromkeys(PROTOCOLS, (fault.status, fault.says))


def test_every_protocol_counts_a_body_refused_for_lack_of_memory(home: Path, runtime: ReaderSharedMemory) -> None:
    counts: list[int] = []

    def change(reader: Reader) -> None:
        take_all_memory(reader)
        counts.append(reader.app._metrics.cells[BODIES_REFUSED])

    ask(home, runtime, Asked(), change)
    assert counts == [0, 1, 2]


@pytest.mark.parametrize("name", FALLEN_BACK)
def test_every_protocol_falls_back_for_the_same_reason(home: Path, runtime: ReaderSharedMemory, name: str) -> None:
    fault = FALLEN_BACK[name]
    replies = ask(home, runtime, fault.asked, fault.change)
    replies["inference"].body = replies["inference"].body["parameters"]
    said = {
        protocol: (reply.status, reply.body["fallback_reason"], reply.body["answered_by"])
        for protocol, reply in replies.items()
    }
    assert said == dict.fromkeys(PROTOCOLS, (200, fault.says, "order_given"))


@pytest.mark.parametrize(("covers", "status"), [(None, 401), ("churn", 403), ("ranking", 200)])
def test_every_protocol_asks_for_the_same_token(
    home: Path, runtime: ReaderSharedMemory, tmp_path: Path, covers: str | None, status: int
) -> None:
    tokens = tmp_path / "tokens.json"
    token, _ = create_token(tokens, "caller", [covers or "ranking"])
    asked = Asked(headers={"authorization": f"Bearer {token}"} if covers else {})
    replies = ask(home, runtime, asked, reader_tokens=str(tokens))
    assert {protocol: reply.status for protocol, reply in replies.items()} == dict.fromkeys(PROTOCOLS, status)


class Recorder:
    """Notes what is done with an answer."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def note(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.done.append(name)

    def change(self, reader: Reader) -> None:
        stub: Any = SimpleNamespace
        served = reader.served
        served.cells = stub(count=self.note("count"))
        served.log = stub(
            assign_id=lambda request, members=None: None, mark_sending=self.note("mark sending"), add=self.note("log")
        )
        served.drift = stub(count_if_sampled=self.note("drift"))


def test_every_protocol_finishes_an_answer_in_one_order(
    home: Path, runtime: ReaderSharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    respond = Connection.respond

    def respond_and_note(self: Connection, *arguments: Any) -> None:
        recorder.done.append("send")
        respond(self, *arguments)

    monkeypatch.setattr(Connection, "respond", respond_and_note)
    monkeypatch.setattr(ServedRelease, "learn", recorder.note("learn"))
    ask(home, runtime, Asked(), recorder.change)
    assert recorder.done == ["count", "mark sending", "send", "log", "learn", "drift"] * len(PROTOCOLS)
