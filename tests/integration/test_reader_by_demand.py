"""What replicas are scaled and paid by, from a real reader: its requests in flight, its start, and Prometheus."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson
import pytest
import yaml
from free_ports import free_port
from helm_chart import NAMESPACE, find, render
from monitoring_services import program, started
from open_loop import OpenLoop, get, post
from reader_support import RunningReader, churn_rows, running_reader, write_version
from waiting import eventually

from forecache.base.settings import PROJECT_ROOT, Settings
from forecache.cli.main import main
from forecache.plugins.cost import stage_costs as replicas
from forecache.plugins.cost.simulate_day import queue_without_fallback
from forecache.plugins.cost.sizing_advice import reader_advice

ROWS = churn_rows(1000)
BODY = orjson.dumps({"keys": list(ROWS)})
"""So many keys a request that the reader's time for it is far above the client's."""


@pytest.fixture
def store(settings: Settings) -> Settings:
    write_version(settings.store_path, "churn", ROWS)
    return settings


def metric(reader: RunningReader, name: str) -> float:
    lines = httpx.get(f"{reader.url}/metrics").text.splitlines()
    [value] = [float(line.split()[-1]) for line in lines if line.startswith(name + " ")]
    return value


def seconds_of_a_request(reader: RunningReader) -> float:
    """From the requests that four clients get answered in a second or more, each asking again at once."""

    def ask(_: int) -> int:
        count, end = 0, time.perf_counter() + 1.0
        with httpx.Client() as client:
            while time.perf_counter() < end or count < 20:
                found = client.post(
                    f"{reader.url}/v1/churn", content=BODY, headers={"content-type": "application/json"}
                )
                assert found.status_code == 200
                count += 1
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(4) as clients:
        asked = sum(clients.map(ask, range(4)))
    return (time.perf_counter() - began) / asked


def in_flight_for_a_while(reader: RunningReader, rate: float) -> tuple[float, float]:
    """The mean number of requests in flight as the reader counts it, and as its clients see it."""
    before, began = metric(reader, "forecache_reader_in_flight_seconds_total"), time.perf_counter()
    request = post("/v1/churn", BODY)
    with OpenLoop(reader.port, lambda _: request, rate, at_random=True) as asked:
        time.sleep(5)
    time.sleep(1.2)  # the reader counts each second
    lasted_s = time.perf_counter() - began - 1.2
    assert not asked.lost()
    in_flight_s = metric(reader, "forecache_reader_in_flight_seconds_total") - before
    return in_flight_s / lasted_s, sum(one.took_s for one in asked.asked) / lasted_s


@pytest.mark.slow
def test_the_requests_in_flight_that_a_reader_counts_are_those_that_its_clients_see(store: Settings) -> None:
    with running_reader(store, reader_workers=1) as reader:
        assert 0 < metric(reader, "forecache_reader_start_seconds") < 600
        load = 0.6
        theory = load + queue_without_fallback(load, 0.0).waiting
        for _ in range(6):  # clients that a busy machine keeps from running see what the reader does not
            by_reader, by_clients = in_flight_for_a_while(reader, load / seconds_of_a_request(reader))
            # On a quiet machine theory holds too; others on the same cores make requests wait for the processor.
            print(f"in flight: {by_reader:.2f} by the reader, {by_clients:.2f} by its clients, {theory:.2f} by M/M/1")
            if 0.25 * by_clients < by_reader < 2 * by_clients:
                break
    assert 0.25 * by_clients < by_reader < 2 * by_clients


@contextmanager
def prometheus(reader: RunningReader, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes a reader each second."""
    port = free_port()
    job = {
        "job_name": "readers", "scrape_interval": "1s", "scrape_timeout": "1s",
        "static_configs": [
            {"targets": [f"127.0.0.1:{reader.port}"], "labels": {"namespace": NAMESPACE, "pod": "reader-0"}}
        ],
    }  # fmt: skip
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    url = f"http://127.0.0.1:{port}"
    with started([*command, f"--web.listen-address=127.0.0.1:{port}"], folder, f"{url}/-/ready"):
        yield url


def _value(url: str, text: str) -> float:
    return sum(float(each["value"][1]) for each in query(url, text))


def query(url: str, text: str) -> list[dict]:
    found: list[dict] = httpx.get(f"{url}/api/v1/query", params={"query": text}).json()["data"]["result"]
    return found


def test_replicas_answers_and_the_autoscalers_metric_come_from_a_real_prometheus(
    store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "STEP_S", 1)
    [rule] = yaml.safe_load((PROJECT_ROOT / "deploy" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    adapted = (
        rule["metricsQuery"].replace("<<.Series>>", rule["name"]["matches"])
        .replace("<<.LabelMatchers>>", 'namespace="ml",pod="reader-0"').replace("<<.GroupBy>>", "pod")
    )  # fmt: skip
    scaled = find(render("postgres", reader__autoscaling__kind="keda"), "ScaledObject", "reader")
    [trigger] = scaled["spec"]["triggers"]
    began = time.time()
    with running_reader(store) as reader, prometheus(reader, tmp_path) as url:
        asking = store.model_copy(update={"prometheus_url": url, "prices": {"replica": (0.05, 0.02)}})
        assert eventually(lambda: bool(query(url, "forecache_reader_workers")))
        with OpenLoop(reader.port, lambda _: get("/v1/churn/00042"), 50.0):
            assert eventually(lambda: replicas.use_of_readers(asking, 1.0).answers > 100)
            for text in (adapted, trigger["metadata"]["query"]):
                assert eventually(lambda text=text: _value(url, text) > 0)
        use = replicas.use_of_readers(asking, 1.0)
        assert use.replicas is not None
        assert 0 < use.replicas < (time.time() - began + 5) / 86_400  # a reader of a few seconds in a day
        [advice] = reader_advice(asking, 1.0)
    assert (advice.about, advice.do) == ("readers", "at least 2 readers at the busiest times")


def test_a_prometheus_that_does_not_answer_is_named(settings: Settings) -> None:
    from forecache.base.errors import UnavailableError

    asking = settings.model_copy(update={"prometheus_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(UnavailableError, match="FORECACHE_PROMETHEUS_URL"):
        replicas.use_of_readers(asking, 7.0)


def test_the_simulator_counts_the_start_of_a_reader_of_this_store(
    store: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(store.home_path))
    given = ("--peak", "10", "--capacity", "1000", "--fixed", "1", "--start-s", "15", "--measure-start", "--json")
    assert main(["simulate", "autoscale", *given]) == 0
    said = capsys.readouterr()
    assert "A reader of this store was ready after" in said.err
    assert 15.1 < orjson.loads(said.out)["start_s"] < 45
