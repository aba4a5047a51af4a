"""The status page of a real reader with two workers under traffic: the same for all viewers, in a real browser too."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page
from reader_support import RunningReader, churn_rows, running_reader, write_version
from status_sample import NIGHTS, ask_some, write_sample
from ui_support import browser_page, find_browser
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.serve.reader import create_token

needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="needs a browser: scripts/install_test_services.sh chromium"
)
FORECACHE = Path(sys.executable).with_name("forecache")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("status"))
    write_sample(settings)
    return settings


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[RunningReader]:
    with running_reader(settings, reader_workers=2, project_part=True) as running:
        with httpx.Client(base_url=running.url) as http:
            for step in range(60):
                ask_some(http, step)
        assert eventually(lambda: status(running)["traffic"]["requests"] > 0)
        yield running


def status(reader: RunningReader, **headers: str) -> dict[str, Any]:
    answer = httpx.get(f"{reader.url}/status.json", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def latest(reader: RunningReader) -> int:
    """Requests that were answered, as /metrics counts them at once."""
    lines = httpx.get(f"{reader.url}/metrics").text.splitlines()
    routes = [f'forecache_reader_requests_total{{route="{route}"' for route in ("one", "many", "feast", "realtime")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(tuple(routes)))


def named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def test_every_worker_tells_the_sums_of_all(reader: RunningReader) -> None:
    before = latest(reader)
    with httpx.Client(base_url=reader.url) as http:
        for step in range(25):
            ask_some(http, step)
    asked: list[dict[str, Any]] = []

    def is_told_by_all() -> bool:
        # New connections, so that each of the two workers is asked; what each tells may be two seconds old.
        asked[:] = [status(reader) for _ in range(12)]
        return {each["traffic"]["since_start"]["requests"] for each in asked} == {before + 25 * 8}

    assert eventually(is_told_by_all)
    workers = asked[-1]["reader"]["workers"]
    assert (workers["alive"], workers["wanted"], len(workers["processes"])) == (2, 2, 2)
    assert sum(row["requests"] for row in workers["processes"]) == before + 25 * 8
    churn = named(asked[-1]["versions"], "churn")
    assert (churn["state"], churn["version"], churn["keys"], churn["kind"]) == ("served", NIGHTS, 2357, "pipeline")


def test_rates_and_shares_come_with_the_next_sample(reader: RunningReader) -> None:
    found: list[dict[str, Any]] = []

    def sampled() -> bool:
        with httpx.Client(base_url=reader.url) as http:
            for step in range(5):
                ask_some(http, step)
        found[:] = [status(reader)]
        rows = found[0]["models"]
        searches = named(rows, "search")
        # Each worker misses once for each request that it has not seen before.
        return (
            all(named(rows, name)["answers"] > 0 for name in ("search", "fraud"))
            and found[0]["traffic"]["per_s"] > 0
            and searches["answered_by_counts"]["model"] > 0
            and searches["cache_hit_share"] > 0.5
        )

    assert eventually(sampled)
    traffic, search = found[0]["traffic"], named(found[0]["models"], "search")
    assert 0 < traffic["p50_us"] <= traffic["p90_us"] <= traffic["p99_us"] <= traffic["p999_us"]
    assert sum(traffic["buckets"]) == traffic["requests"]
    assert len({len(values) for values in traffic["series"].values()}) == 1
    assert search["state"] == "served"
    assert search["log"]["taken"] > 0
    assert named(found[0]["versions"], "churn")["keys_per_s"] > 0


def test_the_last_nights_are_read_beside_the_reader(reader: RunningReader) -> None:
    rows: list[dict[str, Any]] = []

    def is_read() -> bool:
        rows[:] = status(reader)["nights"]["rows"]
        return bool(rows)

    assert eventually(is_read)
    churn = [row for row in rows if row["subject"] == "churn"]
    assert len(churn) == NIGHTS
    assert (churn[0]["stages"], churn[0]["rows"]) == (["features", "score", "publish"], 2357)
    assert churn[0]["as_of"] > churn[-1]["as_of"]


def test_what_is_stale_is_said_and_a_killed_worker_does_not_take_the_history(reader: RunningReader) -> None:
    found = status(reader)
    assert found["ready"]
    assert "spend is stale" in " ".join(each["what"] for each in found["attention"])
    before = found["traffic"]
    victim = found["reader"]["workers"]["processes"][0]["pid"]
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        try:
            workers = status(reader)["reader"]["workers"]
        except httpx.TransportError:
            return False
        pids = [row["pid"] for row in workers["processes"]]
        return workers["restarts"] == 1 and len(pids) == 2 and victim not in pids

    assert eventually(replaced)
    after = status(reader)
    assert after["traffic"]["since_start"]["requests"] >= before["since_start"]["requests"]
    assert after["traffic"]["series"]["at_s"][0] == before["series"]["at_s"][0]
    # Whoever recorded, somebody goes on.
    last = before["series"]["at_s"][-1]
    assert eventually(lambda: status(reader)["traffic"]["series"]["at_s"][-1] > last + 1)
    assert eventually(lambda: any("ended unexpectedly" in each["what"] for each in status(reader)["attention"]))
    reader.wait_until_ready()  # its replacement has loaded the models, too


def test_json_is_given_to_those_who_ask_for_it_and_a_page_to_all_others(reader: RunningReader) -> None:
    page = httpx.get(f"{reader.url}/status")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{reader.url}/status", headers={"accept": "application/json"}).json()["state"]
    both = httpx.get(f"{reader.url}/status", headers={"accept": "text/html,application/json;q=0.9"})
    assert both.headers["content-type"].startswith("text/html")
    assert httpx.post(f"{reader.url}/status").status_code == 405
    home = reader_home(reader)
    for text in (page.text, httpx.get(f"{reader.url}/status.json").text):
        assert home not in text


def reader_home(reader: RunningReader) -> str:
    environment = Path(f"/proc/{reader.process.pid}/cmdline").read_bytes().decode()
    return environment.partition('"home":"')[2].partition('"')[0]


def test_a_damaged_version_is_at_the_top_with_its_remedy(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    write_version(settings.store_path, "churn", churn_rows(50))
    write_version(settings.store_path, "churn", churn_rows(60))
    with running_reader(settings, reader_scrub_s=0.2) as reader:
        assert status(reader)["state"] == "well"
        shard = next((settings.store_path / "churn").rglob("00000002-*/*.mdb"), None) or next(
            path
            for path in (settings.store_path / "churn").rglob("*")
            if path.is_file() and "00000002-base" in str(path)
        )
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 0xFF
        shard.write_bytes(content)
        assert eventually(lambda: status(reader)["versions"][0]["state"] == "fallback")
        found = status(reader)
        assert found["attention"][0]["what"] == "Version 2 of churn is damaged, so version 1 is served instead."
        assert "forecache store verify" in found["attention"][0]["remedy"]
        assert "Needs attention" in httpx.get(f"{reader.url}/status").text
        assert str(tmp_path) not in httpx.get(f"{reader.url}/status.json").text


def test_a_draining_reader_says_so_while_it_still_answers(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    write_version(settings.store_path, "churn", churn_rows(5))
    with running_reader(settings, drain_s=600.0) as reader:  # a second signal, at the end, has it wait no longer
        reader.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: not status(reader)["ready"])
        found = status(reader)
        assert (found["state"], found["attention"][0]["severity"]) == ("critical", "critical")
        assert "draining" in found["attention"][0]["what"]


def test_a_reader_with_tokens_asks_browsers_for_one_as_a_password(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    write_version(settings.store_path, "churn", churn_rows(5))
    file = tmp_path / "tokens.json"
    seeing, _ = create_token(file, "wall", ["+metrics"])
    other, _ = create_token(file, "shop", ["churn"])
    (tmp_path / "token").write_text(seeing)
    with running_reader(settings, reader_tokens=str(file)) as reader, httpx.Client(base_url=reader.url) as http:
        for path in ("/status", "/status.json"):
            refused = http.get(path)
            assert refused.status_code == 401
            assert refused.headers.get_list("www-authenticate")[0].startswith('Basic realm="forecache"')
            assert http.get(path, auth=("anybody", seeing)).status_code == 200
            assert http.get(path, headers={"authorization": f"Bearer {seeing}"}).status_code == 200
            assert http.get(path, auth=("anybody", other)).status_code == 403
            assert http.get(path, params={"token": seeing}).status_code == 401
        assert http.get("/status", headers={"authorization": "Basic"}).status_code == 401
        for wrong in (
            "!",
            base64.b64encode(b"no colon").decode(),
            base64.b64encode(b"a:\xff").decode(),
            "A" * 5000,
        ):
            assert http.get("/status", headers={"authorization": f"Basic {wrong}"}).status_code == 401
        # The password opens the status alone: a browser would send it with requests of other pages, too.
        assert http.get("/v1/churn/00001", auth=("anybody", seeing)).status_code == 401
        assert http.get("/metrics", auth=("anybody", seeing)).status_code == 401
        shown = http.get("/status", auth=("anybody", seeing)).text
        assert seeing not in shown
        done = forecache(
            "status", "--url", reader.url, "--token-file", str(tmp_path / "token"), "--json", home=settings
        )
        assert done.returncode == 0, done.stderr
        assert forecache("status", "--url", reader.url, home=settings).returncode == 4


def forecache(*arguments: str, home: Settings, **environment: str) -> "subprocess.CompletedProcess[str]":
    # No port of a reader of this machine, so that none is found by chance.
    chosen = {"FORECACHE_HOME": str(home.home_path), "FORECACHE_READER_PORT": "1", "COLUMNS": "80"}
    return subprocess.run(
        [FORECACHE, *arguments],
        env={**os.environ, **chosen, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_shows_the_same_on_80_columns_and_tells_cron(reader: RunningReader, settings: Settings) -> None:
    done = forecache("status", "--url", reader.url, home=settings)
    assert done.returncode == 1, done.stderr  # spend is stale
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.startswith("!")
    for word in ("spend is stale", "READER", "churn", "search", "LAST RUNS", "features, score, publish"):
        assert word in done.stdout


def test_the_command_without_a_reader_shows_the_project(settings: Settings) -> None:
    done = forecache("status", home=settings)
    assert "No reader answers at http://127.0.0.1:1" in done.stdout
    assert "PUBLISHED" in done.stdout
    assert "RELEASES" in done.stdout
    missing = forecache("status", "--url", "http://127.0.0.1:1", home=settings)
    assert missing.returncode == 1
    assert missing.stdout.startswith("!! No reader answers at http://127.0.0.1:1")
    assert forecache("status", "--url", "reader:80", home=settings).returncode == 4


@pytest.fixture(scope="module")
def page(reader: RunningReader) -> Iterator[Page]:
    with browser_page(width=1280, height=800, color_scheme="light") as opened:
        yield opened


@needs_browser
def test_the_page_loads_nothing_else_and_reports_no_error_at_any_size(page: Page, reader: RunningReader) -> None:
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1680, 1024, 768, 360):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{reader.url}/status")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert page.evaluate(_LOW_CONTRAST) == []
    with page.expect_response(f"{reader.url}/status"):
        pass
    assert len(grounds) == 2
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {f"{reader.url}/status"}


@needs_browser
def test_figures_change_after_traffic_and_the_reader_of_the_page_stays_where_he_is(
    page: Page, reader: RunningReader
) -> None:
    page.set_viewport_size({"width": 360, "height": 500})
    page.goto(f"{reader.url}/status")
    page.evaluate("window.kept = document.querySelector('h1'); scrollTo(0, 700)")
    # A text above that takes a line more moves the page's numbers, and not what is read.
    heading = "[...document.querySelectorAll('h2')].find(each => each.getBoundingClientRect().top > 0)"
    read = page.evaluate(f"{heading}.innerText")
    place = page.evaluate(f"{heading}.getBoundingClientRect().top")
    figure = page.locator("#traffic + .cards .told").first
    before, moment = figure.inner_text(), page.locator("time").inner_text()
    with httpx.Client(base_url=reader.url) as http:

        def has_changed() -> bool:
            for step in range(10):
                ask_some(http, step)
            return figure.inner_text() != before and page.locator("time").inner_text() != moment

        assert eventually(has_changed)
    assert page.evaluate("window.kept === document.querySelector('h1')")
    assert page.evaluate("scrollY") > 0
    assert page.evaluate(f"{heading}.innerText") == read
    assert page.evaluate(f"{heading}.getBoundingClientRect().top") == pytest.approx(place, abs=1)


@needs_browser
def test_the_page_says_when_the_reader_has_gone(tmp_path: Path, page: Page) -> None:
    settings = load_settings(home=tmp_path / "home")
    write_version(settings.store_path, "churn", churn_rows(5))
    with running_reader(settings) as reader:
        page.goto(f"{reader.url}/status")
        assert page.locator("h1").inner_text() == "All is well"
    page.locator(".lost").wait_for(state="visible")
    assert "has not answered since" in page.locator(".lost").inner_text()
    with running_reader(settings, port=reader.port):
        page.locator(".lost").wait_for(state="hidden")


@needs_browser
def test_without_javascript_the_page_is_whole_and_loads_itself_again(page: Page, reader: RunningReader) -> None:
    browser = page.context.browser
    assert browser is not None
    with closing(browser.new_page(java_script_enabled=False)) as opened:
        opened.set_default_timeout(60_000)
        opened.goto(f"{reader.url}/status")
        assert opened.locator("svg.chart").count() == 3
        assert opened.locator("noscript meta").get_attribute("http-equiv") == "refresh"


_LOW_CONTRAST = """
() => {
  const channel = (part) => { part /= 255; return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    if (!texts.length || !element.getClientRects().length) continue;
    const [one, two] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) low.push(`${element.className} ${texts[0].data.trim()}: ${ratio.toFixed(2)}`);
  }
  return low;
}
"""
