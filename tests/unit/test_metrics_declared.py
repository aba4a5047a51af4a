"""Metrics are declared once, by Prometheus's conventions, and docs/reference/metrics.md lists them all."""

import re
import socket
import struct
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forecache.base.errors import InputError
from forecache.cli.main import main
from forecache.kit.metrics import page as page_module
from forecache.kit.metrics.metric import METRICS, PARTS, Metric
from forecache.kit.metrics.page import MetricsPage, merge_first_buckets, power_of_two_bounds
from forecache.plugins.exporter.batch_page import create_export_server

ROOT = Path(__file__).parents[2]


def test_the_documents_tables_are_those_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--glossary"]) == 0
    assert (ROOT / "docs" / "reference" / "metrics.md").read_text().endswith(f"\n\n{capsys.readouterr().out.strip()}\n")


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1:metrics", "127.0.0.1:99999"])
def test_what_is_no_address_is_named(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--listen", address]) == InputError.exit_code
    assert f"--listen {address} is no address. Give HOST:PORT" in capsys.readouterr().err


def test_no_name_is_declared_twice() -> None:
    names = [metric.name for part in PARTS for metric in part.metrics]
    assert sorted(names) == sorted(METRICS)


def test_every_declared_metric_is_exported_and_every_exported_one_is_declared() -> None:
    quoted = re.compile(r'"((?:forecache_(?:[a-z]+_)*[a-z]+)|process_\w+|http_server_\w+)"')
    pages = [path for path in (ROOT / "forecache").rglob("*.py") if "MetricsPage" in path.read_text()]
    named = {name for path in pages for name in quoted.findall(path.read_text())}
    assert named == set(METRICS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forecache_reads", "counter"),
        ("forecache_reads_total", "gauge"),
        ("forecache_wait_ms", "gauge"),
        ("forecache_used_percent", "gauge"),
        ("forecacheReads_total", "counter"),
    ],
)
def test_a_name_against_the_conventions_is_refused(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=name):
        Metric(name, kind, "Something.")  # type: ignore[arg-type]


def test_a_label_against_the_conventions_is_refused() -> None:
    with pytest.raises(ValueError, match="Model"):
        Metric("forecache_release", "gauge", "Something.", ("Model",))


def declare(monkeypatch: pytest.MonkeyPatch, *metrics: Metric) -> None:
    monkeypatch.setattr(page_module, "METRICS", {metric.name: metric for metric in metrics})


def test_a_page_is_read_back_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        Metric("forecache_seen_total", "counter", "Seen, with a \\ and\na second line.", ("name", "kind")),
        Metric("forecache_took_seconds", "histogram", "Took.", ("name",)),
    )
    page = MetricsPage()
    odd = 'a "quoted" \\ name\nof two lines'
    page.add("forecache_seen_total", [((odd, "x"), 3), (("no value", "y"), None)])
    page.add_histogram("forecache_took_seconds", ["0.5", "1"], [("a", [2, 0, 1], 4.5)])
    families = {family.name: family for family in text_string_to_metric_families(page.text())}
    [seen] = families["forecache_seen"].samples
    assert (seen.labels, seen.value) == ({"name": odd, "kind": "x"}, 3)
    assert families["forecache_seen"].documentation == "Seen, with a \\ and\na second line."
    took = families["forecache_took_seconds"].samples
    assert [(sample.name.rpartition("_")[2], sample.labels.get("le"), sample.value) for sample in took] == [
        ("bucket", "0.5", 2), ("bucket", "1", 2), ("bucket", "+Inf", 3), ("count", None, 3), ("sum", None, 4.5),
    ]  # fmt: skip


def test_samples_have_a_value_for_each_label(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, Metric("forecache_release", "gauge", "Number.", ("model", "variant")))
    with pytest.raises(ValueError, match="forecache_release has the labels"):
        MetricsPage().add("forecache_release", [("search", 1)])


def test_a_thing_has_a_sample_of_each_metric_that_it_has_a_value_for(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch, *(Metric(f"forecache_{name}", "gauge", "X.", ("model",)) for name in ("release", "age_seconds"))
    )
    page = MetricsPage()
    page.add_each(
        [("search", (1, None)), ("fraud", (2, 0.5))],
        {"forecache_release": lambda each: each[0], "forecache_age_seconds": lambda each: each[1]},
    )
    found = {
        family.name: {sample.labels["model"]: sample.value for sample in family.samples}
        for family in text_string_to_metric_families(page.text())
    }
    assert found == {"forecache_release": {"search": 1, "fraud": 2}, "forecache_age_seconds": {"fraud": 0.5}}


def test_shown_buckets_keep_all_that_was_counted() -> None:
    counts = list(range(1, 25))
    bounds, shown = power_of_two_bounds(3, 24), merge_first_buckets(3, counts)
    assert (bounds[0], bounds[-1]) == ("0.000008", "4.194304")
    assert len(shown) == len(bounds) + 1
    assert (shown[0], sum(shown)) == (1 + 2 + 3 + 4, sum(counts))


def test_a_scraper_that_has_given_up_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    asks, has_gone = threading.Event(), threading.Event()

    def make() -> str:
        asks.set()
        assert has_gone.wait(60)
        return "#" * 10_000_000

    server = create_export_server("127.0.0.1", 0, make)
    server.daemon_threads = False  # closing waits for them
    threading.Thread(target=server.serve_forever).start()
    with socket.create_connection(("127.0.0.1", server.server_port)) as scraper:
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert asks.wait(60)
    has_gone.set()
    server.shutdown()
    server.server_close()
    assert capfd.readouterr().err == ""
