"""What the results say: the README's figures, two pages and the guide's table: `make figures`.

`docs/explanation/benchmarks.md` is short, with charts; `benchmarks/results/tables.md` has every row.

python benchmarks/figures.py            write them
python benchmarks/figures.py --check    write nothing; say what differs, and end with 1 where something does
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo as demo_benchmark
import history
import hour
import plan
import short_page
import ways
from _common import machine, results
from _common.rows import HEADS, Row, markdown
from _features import report as features
from _night import report as night
from _operate import report as operate
from _realtime import report as realtime
from _recommend import report as recommend
from _scoring import report as scoring
from _store import report as store
from _store import servers, summary
from _stream import report as stream
from _training import report as training

ROOT = Path(__file__).resolve().parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "choose.md"
PAGE, CHARTS = ROOT / "docs" / "explanation" / "benchmarks.md", ROOT / "docs" / "images" / "benchmarks"
TABLES = results.RESULTS / "tables.md"

BENCHMARKS: dict[str, tuple[str, dict[str, str], results.RowsOf]] = {
    "store": ("Store and reader", store.SECTIONS, summary.rows_of),
    "scoring": ("Batch scoring", scoring.SECTIONS, scoring.rows_of),
    "training": ("Training", training.SECTIONS, training.rows_of),
    "recommend": ("Recommendations", recommend.SECTIONS, recommend.rows_of),
    "features": ("Features", features.SECTIONS, features.rows_of),
    "realtime": ("Models in real time", realtime.SECTIONS, realtime.rows_of),
    "operate": ("Operation of models in real time", operate.SECTIONS, operate.rows_of),
    "stream": ("Near real time", stream.SECTIONS, stream.rows_of),
    "demo": ("The main job", demo_benchmark.SECTIONS, demo_benchmark.rows_of),
    "night": ("The big night", night.SECTIONS, night.rows_of),
    "history": ("Years of history", history.SECTIONS, history.rows_of),
    "plan": ("Plans of runs", plan.SECTIONS, plan.rows_of),
}
Documents = dict[str, dict[str, Any]]
_MODELS = (
    "On the 23,570 customers of the test split (as of 1998-04-01, labels known by 1998-06-30; trained on five as-of "
    "dates from June to October 1997), from `make bench-demo`."
)
_ELSEWHERE = (
    "Recency says most of what there is to say about churn in this cohort; a gradient-boosted model and a logistic "
    "regression on the same features reach a ROC AUC of 0.838 and 0.839. The gate asks for a gain that is surely above "
    "zero, and prints both."
)


@dataclass(frozen=True)
class Figure:
    """One of the README's: where it comes from. Of several rows it is the one whose peer comes off best."""

    what: str
    benchmark: str
    section: str
    keys: tuple[str, ...]  # what `Row.key` begins with


_FEAST = tuple(servers.FEAST_NAMES.values())
README_FIGURES = (
    Figure("A night of 10 million keys, from new events to verified answers", "night", "night", ("duckdb",)),
    Figure("One key over HTTP, Feast's request and answer", "store", "http-one", _FEAST),
    Figure("One key over HTTP", "store", "http-one", servers.STORES),
    Figure("A full publish from Delta, read back and verified", "store", "publish", ("redis", "postgres")),
    Figure(
        "50 candidates ranked by looked-up features, p99 under 5 ms",
        "realtime",
        "network",
        ("FastAPI with Redis, asyncio", "FastAPI with Redis, blocking client"),
    ),
)


def documents(folder: Path = results.RESULTS) -> Documents:
    """The sections of every benchmark that has results."""
    return {name: results.load(folder / f"{name}.json") for name in BENCHMARKS}


def readme_figures(found: Documents) -> str:
    """The README's table: one line each with its command, and what has to be said about where they come from."""
    lines, used = [], {}
    for figure in README_FIGURES:
        command = f'`make bench-{figure.benchmark} ARGS="--only {figure.section}"`'
        section = found[figure.benchmark].get(figure.section)
        row = None if section is None else _pick(figure, section)
        cells = row.cells(spread=False)[1:] if row is not None else ["not measured", "", ""]
        lines.append([figure.what, *cells, command])
        if section is not None:
            used[_title(figure.benchmark, figure.section)] = section
    text = markdown([*HEADS, "Command"], lines)
    said = [*one_commit(used), *(line for name, section in used.items() for line in machine.warnings(name, section))]
    return "\n\n".join([text, *([" ".join(dict.fromkeys(said))] if said else [])])


def _title(benchmark: str, section: str) -> str:
    return benchmark if section == benchmark else f"{benchmark} {section}"


def _pick(figure: Figure, section: dict[str, Any]) -> Row | None:
    rows_of = BENCHMARKS[figure.benchmark][2]
    rows = [row for row in rows_of(figure.section, section) if row.key and row.key.startswith(figure.keys)]
    return min(rows, key=lambda row: row.ratio or 0.0, default=None)


def one_commit(sections: dict[str, Any]) -> list[str]:
    """Where sections were measured: one commit and processor, or, marked, several."""
    if not sections:
        return []
    said = []
    for what, title in (("commit", "commit"), ("processor", "processor")):
        values: dict[str, list[str]] = {}
        for name, section in sections.items():
            for moment in machine.moments_of(section):
                names = values.setdefault(moment[what], [])
                names += [name] if name not in names else []
        if len(values) == 1:
            said.append(f"All on {title} {next(iter(values))}.")
        else:
            each = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
            said.append(f"**Not all on one {title}**: {each}.")
    return said


def of_the_hour(found: Documents) -> dict[str, dict[str, Any]]:
    """The sections that `make bench` measures, by their benchmark and name."""
    return {
        _title(name, section): found[name][section]
        for name, sections in hour.SECTIONS.items()
        for section in sections
        if section in found[name]
    }


def tables(found: Documents) -> str:
    """benchmarks/results/tables.md: every row that was measured."""
    parts = [
        "# Every row that was measured",
        "`make figures` writes this file from the JSON files beside it; [benchmarks/README.md](../README.md) says "
        "what is compared and how. Medians; in brackets the smallest and the largest sample. A ratio compares two "
        "figures of the same section: how many times better than the peer, or, if less is asked for, ours over the "
        "peer's.",
        " ".join(one_commit(of_the_hour(found))),
        "`make bench` measures these. Each of the others has its own command, is measured less often, and says when.",
    ]
    for name, (title, sections, rows_of) in BENCHMARKS.items():
        parts.append(f"## {title}: `make bench-{name}`")
        if not found[name]:
            parts.append("Not measured.")
        for section, subtitle in sections.items():
            if section in found[name]:
                parts += _section(section, subtitle, found[name][section], rows_of)
            elif found[name]:
                parts += [f"### {section}: {subtitle}", "Not measured."]
    parts += ["## How good the models are", _MODELS, demo_benchmark.models_table(found["demo"]), _ELSEWHERE]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(name: str, title: str, section: dict[str, Any], rows_of: results.RowsOf) -> list[str]:
    parts = [f"### {name}: {title}", machine.line_of(section)]
    parts += [f"**{line}**" for line in machine.warnings(name, section)]
    if name.startswith("http-"):
        parts.append(markdown(store.SURFACE_HEADS, store.surface_lines(section["passes"])))
    return [*parts, markdown(HEADS, [row.cells(spread=True) for row in rows_of(name, section)])]


def page(found: Documents) -> str:
    """docs/explanation/benchmarks.md: the topics of `short_page`."""
    measured = [section for topic in short_page.TOPICS if (section := found[topic.benchmark].get(topic.section))]
    usual = Counter(map(short_page.place_of, measured)).most_common(1)[0][0] if measured else ""
    parts = [
        "# Benchmarks",
        "How fast Forecache is, compared with Feast, Redis, PostgreSQL, MLflow, BentoML, Spark and scripts by hand. "
        "Peers run at their better setting in the same run on the same machine, and answers are compared first. "
        "Tables show the "
        f'{short_page.MOST_PEERS} strongest peers. "Times better" below 1, in bold, means that the peer is better.',
        "`make figures` writes this page. The repository has [every row, with the spread of the samples]"
        "(../../benchmarks/results/tables.md), and [what is compared and how](../../benchmarks/README.md). "
        "`make bench` measures a part again in about an hour; each topic names its own command.",
        f"Measured at {usual}, unless a topic says otherwise.",
    ]
    for topic in short_page.TOPICS:
        _, sections, rows_of = BENCHMARKS[topic.benchmark]
        section = found[topic.benchmark].get(topic.section)
        rows = [] if section is None else rows_of(topic.section, section)
        parts += short_page.topic_parts(topic, sections[topic.section], section, rows, "../images/benchmarks", usual)
    return "\n\n".join(parts) + "\n"


def charts(found: Documents) -> dict[Path, str]:
    """The charts of the page, by the file that each is written to."""
    made = {}
    for topic in short_page.TOPICS:
        section = found[topic.benchmark].get(topic.section)
        if topic.is_contest and section is not None:
            shown = topic.shown(topic.matching(BENCHMARKS[topic.benchmark][2](topic.section, section)))
            if shown:
                made[CHARTS / topic.file_name] = short_page.chart(topic, shown)
    return made


def inserted(readme: str, name: str, text: str) -> str:
    """A text with a block between its two marks."""
    begin, end = f"<!-- {name}: make figures -->", f"<!-- end of {name} -->"
    before, _, rest = readme.partition(begin)
    _, mark, after = rest.partition(end)
    assert mark, f"The text needs the marks {begin} and {end}"
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def wanted() -> dict[Path, str]:
    """What the files have to hold."""
    found = documents()
    readme = inserted(README.read_text(), "figures", readme_figures(found))
    readme = inserted(readme, "main job", demo_benchmark.sentence(found["demo"]))
    guide = inserted(GUIDE.read_text(), "ways", ways.table(found))
    return {README: readme, GUIDE: guide, PAGE: page(found), TABLES: tables(found), **charts(found)}


def differing() -> Iterable[Path]:
    return [path for path, text in wanted().items() if not path.is_file() or path.read_text() != text]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        stale = list(differing())
        print("\n".join(f"{path} is not what the results say: run `make figures`" for path in stale))
        sys.exit(1 if stale else 0)
    for path, text in wanted().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(readme_figures(documents()))
