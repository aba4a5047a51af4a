"""The status page: what its figures follow from, that names are escaped, and that its policy lets nothing else in."""

import base64
import hashlib
import re
import struct
from html.parser import HTMLParser
from typing import Any

import pytest
from status_documents import document, in_bucket, model_row, stream_row, version_row

from forecache.kit import format_text as words
from forecache.plugins.status.collect import (
    Attention,
    reader_problems,
    sort_by_severity,
    version_problems,
)
from forecache.plugins.status.history import (
    HISTORY_BYTES,
    LENGTH,
    STEP_S,
    History,
    ModelCounts,
    ReaderTraffic,
    Ring,
    quantile_us,
)
from forecache.plugins.status.page.charts import _thin_out, histogram, round_up, time_chart
from forecache.plugins.status.page.document import HEADERS
from forecache.plugins.status.page.markup import Markup, mark_code, tag
from forecache.plugins.status.page.render import render_page
from forecache.realtime.release.rollout_state import STAGES
from forecache.serve.reader.worker_metrics import BUCKETS

EVIL = '<script>alert("1")</script>&\'`'


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the headings in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))

    handle_startendtag = handle_starttag

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == name]


def test_a_ring_keeps_the_newest_samples_in_their_order() -> None:
    ring = Ring(memoryview(bytearray(Ring.size(2, 5))), 2, 5)
    assert (ring.newest, ring.column(0)) == (0, [])
    for number in range(1, 9):
        ring.append([number, number * 10])
    assert (ring.oldest, ring.newest) == (4, 8)
    assert ring.column(0) == [4, 5, 6, 7, 8]
    assert ring.column(1, 2) == [70, 80]
    assert [ring.sample(number)[1] for number in range(4, 9)] == [40, 50, 60, 70, 80]


def test_a_sample_that_is_being_written_is_not_read() -> None:
    memory = bytearray(Ring.size(1, 3))
    ring = Ring(memoryview(memory), 1, 3)
    for number in (1, 2, 3, 4):
        ring.append([number])
    struct.pack_into("Q", memory, 8 + 8 * (5 % 4), 999)  # as a writer that was killed before it said the number
    assert ring.column(0) == [2, 3, 4]


def test_quantiles_lie_in_the_bucket_of_their_rank() -> None:
    assert quantile_us([0] * BUCKETS, 0.5) is None
    counts = in_bucket(7, 99)
    counts[12] = 1
    assert 64 <= (quantile_us(counts, 0.5) or 0) < 128
    assert quantile_us(counts, 0.99) == 128
    assert 2048 <= (quantile_us(counts, 0.999) or 0) <= 4096


def test_the_history_has_rates_of_each_step_and_sums_of_each_window() -> None:
    memory = memoryview(bytearray(HISTORY_BYTES))
    history = History(memory)
    for step in range(4):
        traffic = ReaderTraffic(100 * step, 10 * step, 2 * step, in_bucket(7, 112 * step))
        models = {"search": ModelCounts(in_bucket(9, 6 * step), [step, 2 * step])}
        history.add_sample(1000.0 + 2 * step, traffic, {"churn": (80 * step, 20 * step)}, models, clock_s=2.0 * step)
    other = History(memory)  # another worker's view
    series = other.series()
    assert series["at_s"] == [1000, 1002, 1004, 1006]
    assert series["per_s"] == [0, 56, 56, 56]
    assert series["failed_per_s"] == [0, 1, 1, 1]
    assert series["p50_us"][1:] == [96, 96, 96]
    seconds, traffic = other.recent_traffic(4)
    assert (seconds, traffic.requests, traffic.server_errors, traffic.buckets[7]) == (4, 224, 4, 224)
    line = other.pipeline_counts("churn", 300)
    assert (line.seconds, line.counts, line.per_s(160)) == (6, [240, 60], pytest.approx(160 / 6))
    seconds, counted = other.model_counts("search", 300)
    assert (sum(counted.buckets), list(counted.more[:3])) == (18, [3, 6, 0])
    assert other.model_series("search") == [0, 3, 3, 3]
    assert other.pipeline_counts("nobody", 300).seconds == 0


def test_the_history_is_bounded_in_time_and_in_names() -> None:
    history = History(memoryview(bytearray(HISTORY_BYTES)))
    none = ReaderTraffic(0, 0, 0, [0] * BUCKETS)
    for step in range(LENGTH + 20):
        history.add_sample(2.0 * step, none, {f"pipeline_{step % 90}": (1, 0)}, {}, clock_s=2.0 * step)
    assert len(history.series()["at_s"]) == LENGTH
    assert history.pipeline_counts("pipeline_3", 10).seconds > 0
    assert history.pipeline_counts("pipeline_89", 10).seconds == 0


def test_without_memory_there_is_no_history() -> None:
    history = History(memoryview(b""))
    assert history.series()["per_s"] == []
    assert history.recent_traffic(10) == (0.0, ReaderTraffic(0, 0, 0, [0] * BUCKETS))


def test_texts_and_attributes_are_escaped() -> None:
    assert tag("p", EVIL, data_title=EVIL) == (
        '<p data-title="&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#x27;`">'
        "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#x27;`</p>"
    )
    assert tag("p", Markup("<b>"), ["<", 1, None]) == "<p><b>&lt;1</p>"
    assert mark_code("run `a<b` now") == "run <code>a&lt;b</code> now"


def test_no_name_of_a_user_becomes_markup() -> None:
    attention = [{"severity": "critical", "what": EVIL, "remedy": EVIL}]
    evil = document(
        state="critical",
        attention=attention,
        versions=[version_row(name=EVIL, model={"name": EVIL, "version": EVIL}, as_of=EVIL)],
        models=[model_row(name=EVIL, model={"name": EVIL, "version": 1}, answered_by_counts={EVIL: 1},
                          rollout=rollout(stage="returned", why=EVIL))],
        nights={"rows": [{"as_of": EVIL, "subject": EVIL, "stages": [EVIL], "rows": 1, "seconds": 1.0,
                          "ended_s_ago": 1}], "why": ""},
    )  # fmt: skip
    shown = render_page(evil).decode()
    assert len(Elements(shown).named("script")) == 1
    assert shown.count("alert(") > 10
    assert "<script>alert" not in shown


def test_the_policy_allows_the_pages_own_style_and_script_alone() -> None:
    shown = render_page(document()).decode()
    policy = dict(HEADERS)["content-security-policy"]
    for name in ("style", "script"):
        content = shown.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    elements = Elements(shown)
    attributes = [name for _, each in elements.found for name in each]
    assert [name for name in attributes if name == "style" or name.startswith("on")] == []
    links = [value for _, each in elements.found for name, value in each.items() if name in ("href", "src") and value]
    assert all(value.startswith("data:") or re.fullmatch(r"[a-z.]+|status/[^/]+", value) for value in links)


def test_the_page_can_be_read_by_those_who_do_not_see_it() -> None:
    elements = Elements(render_page(document()).decode())
    headings = [int(name[1]) for name, _ in elements.found if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))
    assert elements.named("html")[0]["lang"] == "en"
    assert len(elements.named("caption")) == len(elements.named("table")) > 0
    assert all(each["scope"] in ("col", "row") for each in elements.named("th"))
    assert all(each["aria-label"] for each in elements.named("svg"))
    assert elements.named("meta")[-1] == {"http-equiv": "refresh", "content": "5"}


@pytest.mark.parametrize("state", ["well", "warning", "critical"])
def test_the_state_is_the_title_and_the_first_heading(state: str) -> None:
    shown = render_page(document(state=state)).decode()
    assert f"<title>{words.headline(state, True)}" in shown
    assert "Not ready" in render_page(document(state="critical", ready=False)).decode()


def test_a_reader_without_anything_says_so_in_words() -> None:
    empty = document(versions=[], models=[])
    empty["traffic"] |= {"buckets": [0] * BUCKETS, "requests": 0, "per_s": 0.0, "window_s": 0.0} | dict.fromkeys(
        ("p50_us", "p90_us", "p99_us", "p999_us")
    )
    empty["traffic"]["series"] = {name: [] for name in empty["traffic"]["series"]}
    shown = render_page(empty).decode()
    assert "No pipeline or view has a store here" in shown
    assert "Bars appear with the first requests" in shown
    assert "The stage ledger is not here." in shown
    assert "None" not in shown.partition("<body>")[2]
    assert "nan" not in shown.partition("<body>")[2]


def test_charts_fit_their_frames() -> None:
    assert [round_up(value) for value in (0, 0.3, 1, 1.2, 99, 100, 4100)] == [1, 0.5, 1, 2, 100, 100, 5000]
    chart = time_chart([990.0, 1000.0], [("area", [1.0, 50.0])], now=1000, span_s=600, top=2.0, label="x")
    points = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", chart)]
    assert min(points) >= 0
    assert max(points) <= 120
    drawn, low, high = histogram(in_bucket(9, 5), [("p50", 300.0)])
    assert drawn.count("<rect") == 1
    assert (low, high) == ("128 µs", "65.5 ms")


def test_a_long_line_is_thinned_by_time_so_that_it_keeps_its_shape() -> None:
    def thinned(first: int) -> dict[str, list[float]]:
        at_s = [float(STEP_S * step) for step in range(first, first + LENGTH)]
        values = [at % 14 for at in at_s]
        return _thin_out({"at_s": at_s, **dict.fromkeys(("per_s", "failed_per_s", "p50_us", "p99_us"), values)})

    one, two = thinned(1000), thinned(1002)
    assert len(one["at_s"]) == LENGTH // 2
    assert one["per_s"][1:] == two["per_s"][:-1]
    assert one["p99_us"][1:] == two["p99_us"][:-1]
    assert _thin_out({name: [] for name in ("at_s", "per_s", "failed_per_s", "p50_us", "p99_us")})["at_s"] == []


def test_what_is_not_well_is_said_with_a_remedy_the_worst_first() -> None:
    found = [
        *version_problems(version_row(state="fallback", fallback_for=8)),
        *version_problems(version_row(state="damaged", version=None)),
        *version_problems(version_row(state="stale", stale=True, overdue=True)),
        *version_problems(version_row(state="refused", stale=True, refused=True, overdue=True)),
        *version_problems(version_row(state="waiting", version=None)),
        *version_problems(version_row(old_publish=True)),
    ]
    assert [each.severity for each in sort_by_severity(found)] == ["critical"] * 2 + ["warning"] * 4
    assert found[0].what == "Version 8 of churn is damaged, so version 7 is served instead."
    assert all(each.remedy and each.what.endswith(".") for each in found)
    assert list(version_problems(version_row())) == []


def test_a_draining_reader_and_a_missing_worker_are_said() -> None:
    reader = document()["reader"]
    assert list(reader_problems(reader, "")) == []
    assert [each.severity for each in reader_problems(reader | {"draining": True}, "It is draining.")] == ["critical"]
    workers = reader["workers"] | {"alive": 1}
    assert "1 of 2 workers are alive." in [each.what for each in reader_problems(reader | {"workers": workers}, "")]
    for ago_s, said in ((30, 1), (3000, 1), (4000, 0)):
        workers = reader["workers"] | {"restarts": 2, "restarted_s_ago": ago_s}
        assert len(list(reader_problems(reader | {"workers": workers}, ""))) == said
    assert list(reader_problems(reader, "It loads."))[0] == Attention(
        "critical", "Not ready: It loads.", "A load balancer sends it nothing until it is ready."
    )


def rollout(**more: Any) -> dict[str, Any]:
    return {"release": 4, "current": 3, "stage": "canary", "share": 0.05, "paused": False, "why": "", **more}


def test_a_rollout_is_said_in_a_sentence() -> None:
    assert words.rollout(rollout()) == "release 4 answers 5.0 % of the keys"
    assert words.rollout(rollout(stage="returned", why="It was late.")) == (
        "release 4 was returned, release 3 answers: It was late"
    )
    assert words.rollout(rollout(paused=True)).endswith(", paused")
    for stage in STAGES:
        assert "{" not in words.rollout(rollout(stage=stage))
    assert "release 4 answers" in render_page(document(models=[model_row(rollout=rollout())])).decode()


def test_the_column_that_has_moved_the_most_is_shown_or_that_none_is_measured() -> None:
    drift = [{"column": "price", "psi": 0.0712}, {"column": EVIL, "psi": 0.314}]
    assert words.drift(drift) == f"{EVIL} moved the most, PSI 0.31"
    shown = render_page(document(models=[model_row(drift=drift)])).decode()
    assert '<span class="title">Drift</span> &lt;script&gt;alert' in shown
    assert "moved the most, PSI 0.31</p>" in shown
    assert "Drift</span> not measured</p>" in render_page(document(models=[model_row(drift=[])])).decode()


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (words.microseconds(85), "85 µs"), (words.microseconds(1250), "1.25 ms"), (words.microseconds(2e6), "2.0 s"),
        (words.span(3), "3.0 s"), (words.span(11520), "3 h 12 min"), (words.span(400000), "4 days"),
        (words.percent(1), "100 %"), (words.percent(0.99999), "> 99.99 %"), (words.percent(0.9999), "99.99 %"),
        (words.percent(0.00001), "< 0.01 %"), (words.percent(0.5), "50.0 %"), (words.percent(0), "0 %"),
        (words.rate(0), "0"), (words.rate(0.25), "0.25"), (words.rate(1234.5), "1,234"), (words.size(9.5e6), "9.5 MB"),
        (words.plural(1, "worker"), "1 worker"), (words.plural(2, "body", "bodies"), "2 bodies"),
    ],
)  # fmt: skip
def test_figures_are_written_with_their_units(told: str, text: str) -> None:
    assert told == text


def test_streams_are_shown_with_their_layers_and_escaped() -> None:
    assert "Streams" not in render_page(document()).decode()
    slow = stream_row(not_well=["It is slow."], delay_p50_s=None)
    rows = [stream_row(name=EVIL, topic=EVIL), slow, stream_row(state="died")]
    text = render_page(document(streams=rows)).decode()
    assert EVIL not in text
    chips = re.findall(r'class="chip (\w+)">(runs|died)<', text)
    assert chips == [("well", "runs"), ("warning", "runs"), ("critical", "died")]
    for part in ("topic card-payments, engine arrow, event", "6.10 ms, 142 ms", "3 versions behind, not verified"):
        assert part in text, part
