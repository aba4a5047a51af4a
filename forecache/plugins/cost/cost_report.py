"""Report of a project's cost: per day, and per million predictions, answers and events."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from forecache.base.errors import ForecacheError, InputError, NotFoundError
from forecache.base.prices import CPU, hourly_price
from forecache.base.settings import Settings
from forecache.declare.loading import read_project
from forecache.kit.delta.tables import list_tables
from forecache.lake.ledger import records_since
from forecache.plugins.cost.stage_costs import (
    PARTS,
    CostLine,
    Part,
    ReaderUse,
    describe_unrecorded,
    hourly_line,
    ledger_period,
    predictions_a_day,
    replica_lines,
    stage_lines,
    storage_line,
    training_lines,
    use_of_readers,
)
from forecache.serve.store.remote import open_remote
from forecache.stream.state import is_running, read_state

_LEAST_S = 60.0
"""Least age of a process: a younger one has mostly been starting."""


@dataclass(frozen=True)
class StreamUse:
    """Use of a stream's process since its start."""

    name: str
    engine: str
    core_s: float | None  # core seconds; None if they are not known
    seconds: float  # time since the start
    events: int  # committed events
    why: str = ""  # reason why its use is not known, as a sentence; "" if it is

    @property
    def core_hours_per_million(self) -> float | None:
        """Core-hours of a million events; None if not known, or without events."""
        return None if self.core_s is None or not self.events else self.core_s / 3600 / self.events * 1e6

    def price_per_million(self, settings: Settings) -> float | None:
        """Price of a million events on demand; None if it is not known, or the settings have no price."""
        hours, price = self.core_hours_per_million, hourly_price(CPU, settings.prices)
        return None if hours is None or price is None else hours * price[0]


def use_of_streams(settings: Settings, *, at: float | None = None) -> list[StreamUse]:
    """Use of the declared streams; empty if the project cannot be imported."""
    try:
        streams = read_project(settings).streams.values()
    except ForecacheError:
        return []
    now = time.time() if at is None else at
    return [_use_of_stream(settings, stream.name, stream.engine, now) for stream in streams]


def _use_of_stream(settings: Settings, name: str, engine: str, now: float) -> StreamUse:
    state = read_state(settings, name)
    if state is None or state.stopped_at or not (state.is_fresh(now) or is_running(settings.home_path, name)):
        return _unknown_use(name, engine, "it does not run")
    seconds = state.written_at - state.started_at
    if state.cpu_s is None:
        return _unknown_use(name, engine, "its process does not say it")
    if seconds < _LEAST_S:
        return _unknown_use(name, engine, "its process was started less than a minute ago")
    return StreamUse(name, state.engine or engine, state.cpu_s, seconds, state.rows)


def _unknown_use(name: str, engine: str, why: str) -> StreamUse:
    return StreamUse(name, engine, None, 0.0, 0, f"What the stream {name} takes is not known: {why}.")


def stream_lines(settings: Settings, uses: Sequence[StreamUse]) -> Iterator[CostLine]:
    """A line for each stream whose use is known: a day of its process, at the mean since its start."""
    for use in uses:
        if use.core_s is not None:
            hours = use.core_s / use.seconds * 24
            basis = f"measured for {use.seconds / 3600:.3g} h"
            what = f"engine {use.engine}"
            yield hourly_line(settings, "streams", use.name, what, hours, "core-hours", priced_by=CPU, basis=basis)


_REMOTE = "://"


def storage_lines(settings: Settings) -> list[CostLine]:
    """Each table of the lake, each store, and each pipeline's versions on the remote; empty ones are left out."""
    if settings.lake_is_remote:  # walking all versions would list every file of a bucket
        lines = [
            storage_line(settings, table.name, "lake, newest version", table.size_bytes, in_object_store=True)
            for table in list_tables(settings)
        ]
    else:
        lines = [
            storage_line(settings, folder.name, "lake", _bytes_under(folder), in_object_store=False)
            for folder in _folders_in(Path(settings.lake_uri))
        ]
    for folder in _folders_in(settings.store_path):
        lines.append(storage_line(settings, folder.name, "store", _bytes_under(folder), in_object_store=False))
    if settings.store_remote:
        remote = open_remote(settings.store_remote, settings.storage_options)
        for name in sorted(remote.folders()):
            size = sum(remote.sizes(name).values())
            lines.append(storage_line(settings, name, "remote", size, in_object_store=_REMOTE in settings.store_remote))
    return [line for line in lines if line.amount]


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _bytes_under(folder: Path) -> int:
    """Bytes on the disk of all files under a folder; a file of several names counts once."""
    seen, total = set(), 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except FileNotFoundError:  # a publish removes what it no longer needs
                continue
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                total += min(found.st_size, found.st_blocks * 512)  # LMDB's files have holes
    return total


@dataclass(frozen=True)
class CostReport:
    """The cost of a project."""

    lines: Sequence[CostLine]
    days: float  # number of days that the lines are means of
    cores: int
    predictions: dict[str, float]  # rows scored a day by pipeline, and users' lists written a day by recommender
    use: ReaderUse
    streams: Sequence[StreamUse] = ()  # use of each declared stream, known or not
    # by stream, the price on demand; None if it is not known
    per_million_events: Mapping[str, float | None] = field(default_factory=dict)
    not_known: Sequence[str] = ()  # costs that are missing in the lines, as sentences

    def price_of(self, *parts: Part, subject: str | None = None) -> float | None:
        """Price of a day on demand; None if one of the lines has none."""
        lines = [line for line in self.lines if line.part in parts and subject in (None, line.subject)]
        prices = [line.price for line in lines if line.price is not None]
        return sum(prices) if prices and len(prices) == len(lines) else None

    @property
    def per_million_predictions(self) -> float | None:
        """Price of stages, trainings and storage per million scored rows and written lists."""
        return _per_million(self.price_of("stage", "training", "storage"), sum(self.predictions.values()))

    @property
    def per_million_answers(self) -> float | None:
        """Price of the replicas per million answered requests."""
        return _per_million(self.price_of("replicas"), self.use.answers)

    @property
    def spot_saving(self) -> float | None:
        """Saving of trainings on spot machines a day, repeated work included."""
        saved = 0.0
        lines = [line for line in self.lines if line.part == "training"]
        for line in lines:
            if line.price is None or line.price_spot is None:
                return None
            saved += line.price - line.price_spot
        return saved if lines else None

    @property
    def missing_prices(self) -> list[str]:
        """Names of prices that the settings lack."""
        return sorted({line.priced_by for line in self.lines if line.price is None})


def cost_report(settings: Settings, *, days: int, cores: int) -> CostReport:
    """The report of the last days."""
    found = ledger_period(settings, days)
    records = records_since(settings, found.since)
    use, streams = use_of_readers(settings, found.days), use_of_streams(settings)
    lines = [
        *stage_lines(settings, records, found.days, cores=cores),
        *training_lines(settings, records, found.days),
        *stream_lines(settings, streams),
        *storage_lines(settings),
        *replica_lines(settings, use),
    ]
    lines.sort(key=lambda line: (PARTS.index(line.part), -(line.price or 0.0), -line.amount))
    events = {each.name: each.price_per_million(settings) for each in streams}
    not_known = [*describe_unrecorded(settings, records, found.since), *(each.why for each in streams if each.why)]
    predictions = predictions_a_day(records, found.days)
    return CostReport(lines, found.days, cores, predictions, use, streams, events, not_known)


def lines_of(settings: Settings, name: str, *, days: int) -> list[CostLine]:
    """The lines of the stages and trainings of one declaration, the largest first; empty if nothing has run."""
    try:
        found = ledger_period(settings, days)
    except NotFoundError:
        return []
    records = [each for each in records_since(settings, found.since) if each.subject == name]
    cores = os.cpu_count() or 1
    lines = [*stage_lines(settings, records, found.days, cores=cores), *training_lines(settings, records, found.days)]
    return sorted(lines, key=lambda line: -line.amount)


def report_to_dict(report: CostReport) -> dict[str, Any]:
    """The report as JSON-serialisable values."""
    parts = {part: report.price_of(part) for part in PARTS}
    return {
        "days": round(report.days, 3),
        "cores_held": report.cores,
        "lines": [asdict(line) for line in report.lines],
        "price_by_part": parts,
        "spot_saving": report.spot_saving,
        "predictions": report.predictions,
        "answers": report.use.answers,
        "price_per_million_predictions": report.per_million_predictions,
        "price_per_million_predictions_of": {
            name: _per_million(report.price_of("stage", "training", "storage", subject=name), rows)
            for name, rows in report.predictions.items()
        },
        "price_per_million_answers": report.per_million_answers,
        "core_hours_per_million_events_of": {each.name: each.core_hours_per_million for each in report.streams},
        "price_per_million_events_of": dict(report.per_million_events),
        "missing_prices": report.missing_prices,
        "not_known": list(report.not_known),
    }


def _per_million(price: float | None, count: float | None) -> float | None:
    return price / count * 1e6 if price is not None and count else None


_COLOURS = dict(zip(PARTS, ("#4c72b0", "#dd8452", "#c44e52", "#8c8c8c", "#55a868"), strict=True))
_MOST = 24


def require_picture_name(file: Path | None) -> None:
    """Refuse the name of a file that is no picture that can be written; raises `InputError`."""
    if file is not None and file.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {file} is no picture that can be written.", remedy="End it in .png or .svg.")


def plot_costs(report: CostReport, file: Path | IO[Any], *, kind: str | None = None) -> None:
    """Plot a bar for each line, by its price or, if prices are missing, by its hours.

    Args:
        kind: "png" or "svg"; None: by the ending of the file's name.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    priced = not report.missing_prices
    lines = [line for line in report.lines if priced or line.unit != "GB"]
    values = {id(line): (line.price or 0.0) if priced else line.amount for line in lines}
    lines.sort(key=lambda line: values[id(line)])
    left_out = lines[:-_MOST] if len(lines) > _MOST else []
    shown = lines[len(left_out) :]
    figure = Figure(figsize=(9, 1.2 + 0.3 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    names = [f"{line.subject or 'all'}: {line.what}" for line in shown]
    bars = axes.barh(
        range(len(shown)), [values[id(line)] for line in shown], color=[_COLOURS[line.part] for line in shown]
    )
    axes.bar_label(bars, [f"{values[id(line)]:,.3g}" for line in shown], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), names, fontsize=9)
    axes.set_xlabel("price of a day, on demand" if priced else "hours of cores, devices and replicas a day")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    used = [part for part in PARTS if any(line.part == part for line in shown)]
    handles = [Patch(color=_COLOURS[part], label=part) for part in used]
    axes.legend(handles=handles, frameon=False, loc="lower right", fontsize=9)
    note = f"; {len(left_out)} smaller ones not shown" if left_out else ""
    axes.set_title(f"Mean of {report.days:.1f} days{note}", fontsize=10, loc="left")
    figure.savefig(file, dpi=130, format=kind)
