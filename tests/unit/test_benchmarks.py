"""The benchmark of the store: every peer answers the same, and the table says what was measured."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from reader_support import write_version

from forecache.reader.answers import Answers
from forecache.store import Field, Store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import figures  # noqa: E402  # the benchmarks are no package
from _store import answers, report, rows, servers, summary  # noqa: E402
from _store.lake import Curtain  # noqa: E402
from _store.processes import BenchmarkError  # noqa: E402

KINDS = ("double", "double", "double", "string")
KEYS = [rows.key_text(index) for index in range(0, 40, 3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    content = {rows.key_text(index): rows.expected(index) for index in range(50)}
    write_version(tmp_path, rows.NAME, content, fields=tuple(map(Field, rows.FIELDS, KINDS)))
    return Store(tmp_path / rows.NAME)


@pytest.fixture
def peers(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.setenv("BENCH_STORE", str(store.layout.root))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "_store" / "peers"))
    names = ("served", "raw_asgi", "raw_rsgi", "fast_api")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def reader_answers(store: Store, peers: dict[str, ModuleType]) -> Answers:
    """The reader's answers of the second in which the peers made theirs."""
    found = Answers(store.snapshot())
    found.refresh(0.0)
    found.tail = peers["served"].TAIL
    return found


async def call_asgi(app: Any, method: str, path: str, body: bytes = b"") -> bytes:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://peer") as client:
        answer = await client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    return answer.content


class RsgiCall:
    """The two objects that an RSGI application is called with."""

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self.method, self.path, self._body = method, path, body
        self.answer = b""

    async def __call__(self) -> bytes:
        return self._body

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert status == 200
        self.answer = body


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def test_one_key_has_the_same_bytes_from_the_reader_and_the_raw_peers(
    store: Store, peers: dict[str, ModuleType]
) -> None:
    path = f"/v1/{rows.NAME}/{KEYS[2]}"
    wanted = reader_answers(store, peers).one(KEYS[2].encode())
    rsgi = RsgiCall("GET", path)
    run(peers["raw_rsgi"].app(rsgi, rsgi))
    assert run(call_asgi(peers["raw_asgi"].app, "GET", path)) == wanted
    assert run(call_asgi(peers["fast_api"].app, "GET", path)) == wanted
    assert rsgi.answer == wanted
    tutorial = run(call_asgi(peers["fast_api"].app, "GET", f"/tutorial/{rows.NAME}/{KEYS[2]}"))
    assert wanted is not None
    assert json.loads(tutorial) == json.loads(wanted)


def test_many_keys_have_the_same_values_from_every_peer(store: Store, peers: dict[str, ModuleType]) -> None:
    path, body = f"/v1/{rows.NAME}", answers.body_of("many", KEYS).encode()
    rsgi = RsgiCall("POST", path, body)
    run(peers["raw_rsgi"].app(rsgi, rsgi))
    found = [
        reader_answers(store, peers).many([key.encode() for key in KEYS])[0],
        run(call_asgi(peers["raw_asgi"].app, "POST", path, body)),
        rsgi.answer,
        run(call_asgi(peers["fast_api"].app, "POST", path, body)),
        run(call_asgi(peers["fast_api"].app, "POST", f"/tutorial/{rows.NAME}", body)),
    ]
    for each in found:
        answers.require_equal("peer", KEYS, answers.decode("many", each, KEYS))
    assert found[1] == found[2] == found[3]


def feast_answer(wanted: list[dict[str, Any]]) -> bytes:
    columns = [{"values": KEYS, "statuses": ["PRESENT"] * len(KEYS)}]
    for name in rows.FIELDS:
        columns.append({"values": [row[name] for row in wanted], "statuses": ["PRESENT"] * len(KEYS)})
    return orjson.dumps({"metadata": {"feature_names": [rows.KEY, *rows.FIELDS]}, "results": columns})


def test_an_answer_that_differs_in_the_last_bit_is_refused() -> None:
    wanted = [rows.expected(int(key)) for key in KEYS]
    answers.require_equal("peer", KEYS, answers.decode("feast", feast_answer(wanted), KEYS))
    wanted[3]["expected_spend"] = float(np.nextafter(wanted[3]["expected_spend"], np.inf))
    with pytest.raises(BenchmarkError, match=KEYS[3]):
        answers.require_equal("peer", KEYS, answers.decode("feast", feast_answer(wanted), KEYS))


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=KEYS[0]):
        answers.require_equal("peer", KEYS[:1], [None])


def test_a_night_holds_every_key_once_with_the_values_that_are_expected() -> None:
    stamps = np.zeros(1000, np.uint16)
    stamps[7] = 2
    found = [row for batch in rows.night_batches(stamps, rows.FIRST_NIGHT) for row in batch.to_pylist()]
    assert sorted(row[rows.KEY] for row in found) == [rows.key_text(index) for index in range(1000)]
    assert [row[rows.KEY] for row in found] != sorted(row[rows.KEY] for row in found)
    seven = next(row for row in found if row[rows.KEY] == "00000007")
    assert {name: seven[name] for name in rows.FIELDS} == rows.expected(7, 2) != rows.expected(7)


def test_commits_are_revealed_in_order(tmp_path: Path) -> None:
    log = tmp_path / "table" / "_delta_log"
    log.mkdir(parents=True)
    for version in range(4):
        (log / f"{version:020d}.json").touch()
    curtain = Curtain(str(tmp_path / "table"), first_hidden=1)
    assert curtain.hide() == 3
    assert [path.name for path in log.iterdir()] == [f"{0:020d}.json"]
    curtain.reveal()
    curtain.reveal()
    assert sorted(int(path.stem) for path in log.iterdir()) == [0, 1, 2]
    assert curtain.hide() == 3


def http_pass(rates: dict[str, tuple[float, float]]) -> dict[str, Any]:
    def load(rate: float, p99_ms: float) -> dict[str, Any]:
        return {"requests_per_s": rate, "p50_ms": 1.0, "p99_ms": p99_ms, "failed": 0}

    return {
        "machine": {"busy_share": 0.0},
        "surfaces": {
            name: {
                "content": {"body_bytes": 100, "answer_bytes": 200},
                "default": [load(default, 10.0)],
                "one core": [load(one_core, 5.0)],
            }
            for name, (default, one_core) in rates.items()
        },
    }


def everyone(feast_rate: float) -> dict[str, tuple[float, float]]:
    names = (servers.OURS, servers.OURS_FEAST, servers.FASTAPI, servers.FASTAPI_DICT, servers.ASGI, servers.RSGI)
    return dict.fromkeys(names, (10000.0, 9000.0)) | dict.fromkeys(servers.FEAST_NAMES.values(), (100.0, feast_rate))


def test_a_peer_is_compared_at_its_better_setting_and_a_missed_floor_is_said() -> None:
    passes = [http_pass(everyone(1_000.0)), http_pass(everyone(1_200.0))]
    found = {row.peer: row for row in summary.http_rows("http-one", passes) if row.figure == "requests per second"}
    feast = found["Feast, SQLite"]
    assert feast.theirs == summary.Value(1_100.0, 1_000.0, 1_200.0)
    assert feast.ratio == pytest.approx(10_000 / 1_100)
    assert feast.met is False
    assert found[servers.ASGI].met is True
    p99 = next(row for row in summary.http_rows("http-one", passes) if row.figure == "p99 latency")
    assert p99.theirs is not None
    assert (p99.ours.median, p99.theirs.median) == (10.0, 5.0)
    printed = report.text({"http-one": {"size": "full", "passes": passes}})
    assert "MISSED" in printed
    assert "1,100 (1,000 to 1,200)" in printed


def test_the_figures_in_the_readme_are_those_of_the_results() -> None:
    readme = figures.README.read_text()
    assert figures.inserted(readme, figures.block()) == readme, "run `make figures`"


def test_a_figure_that_misses_its_floor_is_in_the_readmes_table() -> None:
    document = {"sections": {"http-one": {"size": "full", "passes": [http_pass(everyone(1_000.0))]}}}
    lines = figures.store_lines(document)
    assert [line.met for line in lines if "Feast, SQLite" in line.peer] == [False, False]
    assert "**missed**" in figures.table(lines)


def test_a_busy_machine_and_small_sizes_are_said() -> None:
    passes = [http_pass(everyone(10.0))]
    passes[0]["machine"]["busy_share"] = 0.5
    found = report.warnings({"http-one": {"size": "small", "passes": passes}})
    assert any("50%" in line for line in found)
    assert any("mean nothing" in line for line in found)
