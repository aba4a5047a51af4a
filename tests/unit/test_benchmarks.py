"""The benchmarks: every peer answers the same, and the table says what was measured, on which commit."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import orjson
import pytest
from reader_support import write_version

from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Field, Store
from forecache.serve.store.encoding.column_values import json_texts, served_type
from forecache.serve.store.values import cut_lists

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import figures  # noqa: E402  # the benchmarks are no package
import hour  # noqa: E402
import short_page  # noqa: E402
from _common import machine, results  # noqa: E402
from _common.rows import Asked, Row, Value  # noqa: E402
from _recommend import report as recommend  # noqa: E402
from _store import answers, backends, lists, lookups, open_loop, rows, servers, summary  # noqa: E402
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
    database = store.layout.root / "peer.db"
    backends.write_sqlite(database, 50)
    for name, value in {"BENCH_BACKEND": "sqlite", "BENCH_BACKEND_AT": str(database), "BENCH_PEERS": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(BENCHMARKS / "_store" / "peers"))
    names = ("served", "raw_asgi", "raw_rsgi", "fast_api", "direct")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def reader_answers(store: Store, peers: dict[str, ModuleType]) -> VersionAnswers:
    """The reader's answers of the second in which the peers made theirs."""
    found = VersionAnswers(store.snapshot())
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
    assert wanted is not None
    rsgi = RsgiCall("GET", path)
    run(peers["raw_rsgi"].app(rsgi, rsgi))
    assert run(call_asgi(peers["raw_asgi"].app, "GET", path)) == wanted
    assert run(call_asgi(peers["fast_api"].app, "GET", path)) == wanted
    assert rsgi.answer == wanted
    direct = RsgiCall("GET", path)
    run(peers["direct"].app(direct, direct))
    assert json.loads(direct.answer) == json.loads(wanted)
    tutorial = run(call_asgi(peers["fast_api"].app, "GET", f"/tutorial/{rows.NAME}/{KEYS[2]}"))
    assert json.loads(tutorial) == json.loads(wanted)


def test_many_keys_have_the_same_values_from_every_peer(store: Store, peers: dict[str, ModuleType]) -> None:
    path, body = f"/v1/{rows.NAME}", answers.body_of("many", KEYS).encode()
    rsgi, direct = RsgiCall("POST", path, body), RsgiCall("POST", path, body)
    run(peers["raw_rsgi"].app(rsgi, rsgi))
    run(peers["direct"].app(direct, direct))
    found = [
        reader_answers(store, peers).many([key.encode() for key in KEYS])[0],
        run(call_asgi(peers["raw_asgi"].app, "POST", path, body)),
        rsgi.answer,
        direct.answer,
        run(call_asgi(peers["fast_api"].app, "POST", path, body)),
        run(call_asgi(peers["fast_api"].app, "POST", f"/tutorial/{rows.NAME}", body)),
    ]
    for each in found:
        answers.require_equal("peer", KEYS, answers.decode("many", each, KEYS))
    assert found[1] == found[2] == found[4]


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


def test_redis_and_postgres_are_loaded_with_what_the_source_holds() -> None:
    ((keys, values),) = backends.blocks(30)
    assert keys.to_pylist() == [rows.key_text(index) for index in range(30)]
    assert [json.loads(value) for value in values.to_pylist()] == [rows.expected(index) for index in range(30)]
    commands = backends.redis_commands(keys.slice(3, 2), values.slice(3, 2))
    value = values[3].as_py().encode()
    first = b"*3\r\n$3\r\nSET\r\n$8\r\n00000003\r\n$%d\r\n%s\r\n" % (len(value), value)
    assert commands.startswith(first)
    assert commands.count(b"SET") == 2
    assert backends.text_lines([keys.slice(3, 1), values.slice(3, 1)]) == b"00000003\t" + value + b"\n"


def test_duckdb_with_onnx_runtime_scores_as_the_network_alone(tmp_path: Path) -> None:
    import onnxruntime
    from _scoring import alone
    from deltalake import DeltaTable, write_deltalake
    from scoring_support import features_table, network

    features = features_table(300).drop_columns(["as_of"])
    write_deltalake(str(tmp_path / "features"), features)
    alone.with_duckdb(str(tmp_path / "features"), str(tmp_path / "out"))
    found = DeltaTable(str(tmp_path / "out")).to_pyarrow_table().sort_by("user_id")
    assert found["user_id"].to_pylist() == features["user_id"].to_pylist()
    matrix = np.column_stack([column.to_numpy() for column in features.columns[1:]]).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(network(20)).run(None, {"x": matrix})
    np.testing.assert_allclose(found["prediction"].to_numpy(), wanted[:, 0], rtol=1e-6)


def test_a_text_has_as_many_bytes_as_the_first_items_of_each_list() -> None:
    index = np.arange(200)
    columns = {name: lists.column(name, index) for name in ("text", "first", "items")}
    entries = {name: json_texts(column, served_type(column.type) or "").to_pylist() for name, column in columns.items()}
    assert list(map(len, entries["text"])) == list(map(len, entries["first"]))
    cut = [cut_lists(entry.encode(), lists.ASKED).decode() for entry in entries["items"]]
    assert cut == entries["first"]


def test_lists_are_compared_with_the_text_round_by_round() -> None:
    def rounds(*rates: float) -> dict[str, Any]:
        return {"one core": [{"requests_per_s": rate, "cpu_us": 1e6 / rate} for rate in rates]}

    found = {name: rounds(900.0, 90.0, 9.0) for name in lists.TARGETS} | {lists.TEXT: rounds(1000.0, 100.0, 90.0)}
    rows = lists.table_rows([{"surfaces": found}])
    assert [round(row.ratio or 0, 9) for row in rows] == [0.9] * 6
    assert [row.met for row in rows] == [True, None, True, None, None, None]


def test_a_stall_is_counted_from_when_each_request_was_due() -> None:
    # Ten requests a second; the fourth is sent 0.5 s late, by a load generator that was held up, and takes 10 ms.
    sent = [number * 100_000_000 for number in range(10)]
    sent[3] += 500_000_000
    lines = [f"{at},200,10000000,1,1,,,,{number},GET,url,," for number, at in enumerate(sent)]
    found = open_loop.latencies("\n".join(lines), 10)
    assert found["max_ms"] == pytest.approx(510.0)
    assert found["p50_ms"] == pytest.approx(10.0)
    assert found["failed"] == 0


MOMENT = {
    "at": "2026-11-25T22:00:00+00:00",
    "processor": "A",
    "cores": 2,
    "commit": "abc",
    "busy_share": 0.0,
    "load_average": 0.1,
}


def http_pass(feast_rate: float, **moment: Any) -> dict[str, Any]:
    def load(rate: float, p99_ms: float) -> dict[str, Any]:
        return {"requests_per_s": rate, "p50_ms": 1.0, "p99_ms": p99_ms, "failed": 0}

    rates = dict.fromkeys(
        (*servers.MINE, servers.FASTAPI, servers.FASTAPI_DICT, servers.ASGI, servers.RSGI, *servers.STORES), 10_000.0
    )
    rates |= {servers.OURS_FEAST: 5_000.0, servers.RSGI_TWO: 20_000.0, servers.FEAST_TWO: 200.0}
    rates |= dict.fromkeys(servers.FEAST_NAMES.values(), feast_rate)
    surfaces = {
        name: {
            "content": {"body_bytes": 100, "answer_bytes": 200},
            "default": [load(rate * 0.9, 10.0)],
            **({} if "2 workers" in name else {"one core": [load(rate, 5.0)]}),
        }
        for name, rate in rates.items()
    }
    return {"machine": {**MOMENT, **moment}, "surfaces": surfaces}


def test_feast_is_compared_in_its_own_format_and_a_missed_floor_is_said() -> None:
    passes = [http_pass(900.0), http_pass(1_100.0)]
    feast = next(row for row in summary.http_rows("http-one", passes) if row.key == "Feast, SQLite")
    assert feast.theirs == Value(1_000.0, 900.0, 1_100.0)
    assert (feast.ratio, feast.met) == (5.0, False)
    published = ["Forecache, Feast's format: requests per second", "5,000 /s", "Feast, SQLite: 1,000 /s", "5"]
    assert feast.cells(spread=False) == published
    assert feast.cells_with_asked()[-1] == ">= 12 x **missed**"


def test_a_page_for_users_says_that_a_peer_is_better() -> None:
    value = Value(1.0, 1.0, 1.0)
    slower = Row("rate", value, "/s", "Redis", value, ratio=0.8, asked=Asked(2.0))
    assert slower.cells(spread=False)[-1] == "0.8 (the peer is better)"


def test_the_short_page_has_few_rows_a_topic_and_names_the_peers_that_are_better() -> None:
    documents = {**dict.fromkeys(figures.BENCHMARKS, {}), "store": {"http-one": {"size": "full", "passes": [quick()]}}}
    text = figures.page(documents)
    topics = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert list(topics) == [topic.title for topic in short_page.TOPICS]
    assert max(len(re.findall(r"^\| ", part, re.MULTILINE)) for part in topics.values()) <= 2 + short_page.MOST_PEERS
    own, feast = topics["One key over HTTP"], topics["One key over HTTP, Feast's request and answer"]
    assert f"**Better peers: {servers.SQLITE}.**" in own
    assert f"| {servers.SQLITE}: 40,000 /s | **0.25** |" in own
    assert own.index(servers.SQLITE) < own.index(" | 1 |")
    assert feast.count("\n| Feast, ") == 2
    assert (feast.count(" | 5 |"), "Better" in feast) == (2, False)
    assert 'Not measured: `make bench-night ARGS="--only night"` measures it.' in text


def quick() -> dict[str, Any]:
    """A pass in which SQLite answers more requests than Forecache."""
    found = http_pass(1_000.0)
    for runs in ("default", "one core"):
        found["surfaces"][servers.SQLITE][runs][0]["requests_per_s"] = 40_000.0
    return found


def test_each_topic_of_the_short_page_is_a_section_and_has_a_chart_of_its_own() -> None:
    assert all(topic.section in figures.BENCHMARKS[topic.benchmark][1] for topic in short_page.TOPICS)
    assert len({topic.file_name for topic in short_page.TOPICS}) == len(short_page.TOPICS)
    drawn = figures.charts(figures.documents())
    text = figures.page(figures.documents())
    assert {path.name for path in drawn} == set(re.findall(r"\.\./images/benchmarks/(\S+)\)", text))
    assert drawn


def test_a_chart_draws_each_figure_in_proportion() -> None:
    topic = short_page.Topic("Reads <quick>", "store", "in-process", "get", less_is_better=True)
    value = Value(1.0, 1.0, 1.0)
    rows = [
        Row("get", value, "us", name, Value(times, times, times)) for name, times in (("Redis", 4.0), ("Feast", 2.0))
    ]
    image = short_page.chart(topic, rows)
    widths = [
        float(rect.get("width", 0)) for rect in ElementTree.fromstring(image).iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert [width / widths[1] for width in widths] == [0.25, 1.0, 0.5]
    assert [topic.times_better(row) for row in rows] == [4.0, 2.0]
    assert "Reads &lt;quick&gt; (less is better)" in image


@pytest.mark.parametrize("section", ["http-one", "http-many"])
def test_every_server_that_was_measured_is_in_the_published_table(section: str) -> None:
    document = {"store": {section: {"size": "full", "passes": [http_pass(900.0)]}}}
    text = figures.tables({**dict.fromkeys(figures.BENCHMARKS, {}), **document})
    for name in http_pass(1.0)["surfaces"]:
        assert f"| {name} |" in text


def test_sections_of_several_commits_and_a_busy_machine_are_said_in_both_tables() -> None:
    quiet, busy = http_pass(900.0), http_pass(900.0, commit="def", busy_share=0.4)
    store = {"http-one": {"size": "full", "passes": [quiet, busy]}}
    found = {**dict.fromkeys(figures.BENCHMARKS, {}), "store": store}
    for text in (figures.readme_figures(found), figures.tables(found)):
        assert "Not all on one commit" in text
        assert "others used 40% of it" in text
    assert "All on commit abc." in figures.readme_figures(
        {**found, "store": {"http-one": {"size": "full", "passes": [quiet]}}}
    )


def test_a_section_measured_again_leaves_the_others_and_their_circumstances_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "some.json", {"size": "full", "machine": {**MOMENT, "commit": "old"}, "figure": 1}
    results.save(path, {"other": other})
    failed = results.measure_sections(
        ["new", "broken"], {"new": lambda: {"figure": 2}, "broken": lambda: {}["figure"]}, path=path, size="full"
    )
    found = results.load(path)
    assert found["other"] == other
    assert (found["new"]["figure"], found["new"]["machine"]["commit"]) == (2, machine.commit())
    assert [sentence.partition(":")[0] for sentence in failed] == ["broken"]


def test_a_limit_is_on_the_ratio_or_on_the_figure() -> None:
    memory = Row("memory", Value.of([1_600.0]), "MB", asked=Asked(1_500, at_least=False, of_ratio=False, unit="MB"))
    assert (memory.met, memory.asked_text) == (False, "<= 1,500 MB **missed**")
    faster = Row("speed", Value.of([2.0]), "s", "peer", Value.of([4.0]), 2.0, Asked(2.0))
    assert (faster.met, faster.asked_text) == (True, ">= 2 x")


def test_every_recommender_that_was_measured_is_beside_ease_and_its_floors_are_on_its_own_figures() -> None:
    names = ("ease", "ease_plain", "als", "two_towers", "popularity", "implicit_als", "implicit_bpr", "implicit_bm25")
    models = {name: {"ndcg": [0.4], "recall": [0.2], "fit_s": [2.0]} for name in names}
    models["ease"] = {"ndcg": [0.47, 0.49, 0.5], "recall": [0.25], "fit_s": [1.0]}
    section = {"size": "full", "machine": MOMENT, "models": models, "gains": [[0.1, 0.2], [-0.01, 0.2], [0.2, 0.3]]}
    rows = recommend.rows_of("movielens", section)
    asked = {row.key: (row.asked_text, row.met) for row in rows if row.asked is not None}
    assert asked == {
        "ndcg": (">= 48 %", True), "gain": (">= 0 % **missed**", False), "seconds": ("<= 5 s", True),
    }  # fmt: skip
    beside = [row for row in rows if row.what == "nDCG@10 of EASE"]
    assert len(beside) == len(names) - 1
    assert all(row.ratio == pytest.approx(0.49 / 0.4) for row in beside)


def test_readme_and_the_document_hold_what_the_results_say() -> None:
    assert not list(figures.differing()), "run `make figures`"


def test_look_ups_are_compared_with_redis_and_with_what_is_asked_of_one_segment() -> None:
    taken = {lookups.BASE: 30e3, lookups.DELTA: 70e3, lookups.REDIS: 600e3}
    passes = [{"keys": 2, "full_s": 1.0, **{way: {"p50": ns, "p99": 2 * ns} for way, ns in taken.items()}}]
    found = {row.key: row for row in summary.lookup_rows(passes) if row.key}
    assert (found[lookups.BASE].ours.median, found[lookups.BASE].ratio, found[lookups.BASE].met) == (30.0, 20.0, True)
    assert found[lookups.DELTA].met is None
    passes[0][lookups.BASE]["p50"] = 61e3
    assert summary.lookup_rows(passes)[0].met is False


def test_the_features_of_every_hundredth_key_differ_on_the_second_night() -> None:
    index = np.arange(200)
    changed = (lookups.matrix(index, 0) != lookups.matrix(index, 1)).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [0, 100]


def test_the_readme_has_figures_of_the_sections_that_every_release_measures() -> None:
    for name, sections in hour.SECTIONS.items():
        assert set(sections) <= set(figures.BENCHMARKS[name][1])
    for figure in figures.README_FIGURES:
        assert figure.section in hour.SECTIONS[figure.benchmark]
    measured = {name: {*sections, *hour.SECTIONS.get(name, ())} for name, sections in hour.other_sections().items()}
    assert measured == {name: set(sections) for name, (_, sections, _) in figures.BENCHMARKS.items()}
