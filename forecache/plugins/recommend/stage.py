"""The nightly stage of a recommender: fit, judge, rank for every user, and write the lists, each as-of date once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from forecache.base.errors import CheckError, ForecacheError, InputError, NotYetError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Recommender
from forecache.declare.schedules.as_of import require_as_of
from forecache.kit.delta.tables import table_version
from forecache.lake.ingest.ingested_files import ingested_files, last_raw_version
from forecache.lake.sources import Pins, require_delivered, source_state
from forecache.lake.stage import Stage, StageOutcome, hold_table_lock
from forecache.plugins.recommend.build_date import PendingDate, RecommenderTables
from forecache.plugins.recommend.evaluation.gate import first_test_day
from forecache.plugins.recommend.lists import STAGE


def recommend(
    settings: Settings,
    recommender: Recommender,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the lists of the as-of dates whose interactions or declaration changed since they were written.

    A date that is refused does not stop the others.

    Args:
        rebuild: Write the lists of all dates.

    Returns:
        Rows (users) over all given dates; `details` has `built` (dates written), `refused` (reason by date),
        `rows_by_night` and `nights` by date with the gate's figures, the number of items and the times of the steps.

    Raises:
        InputError: A date is no as-of date; or every date is refused, the first one because it has no landing file, or
            its interactions cannot be learned from.
        CheckError: Every date is refused, the first one by the gate; earlier lists stay.
        ConflictError: Another run wrote one of the dates from other inputs meanwhile.
    """
    stage = Stage(settings, STAGE, recommender.name, run_id)
    source, table = recommender.source, recommender.prediction_table
    refused: dict[date, ForecacheError] = {}
    with hold_table_lock(settings, table, run_id, progress):
        require_as_of(recommender, nights)
        pins = Pins(settings)
        tables = RecommenderTables.open(settings, recommender, pins)
        files = ingested_files(settings, source)
        inputs: dict[date, str] = {}
        versions: dict[date, int] = {}
        for night in nights:
            try:
                for each in recommender.all_sources:
                    require_delivered(settings, each, [night], pins=pins)
            except (InputError, NotYetError) as error:
                refused[night] = error
                continue
            versions[night] = last_raw_version(settings, source, night, files=files)
            inputs[night] = _inputs(settings, recommender, night, pins)

        def work(some: Sequence[date]) -> dict[date, StageOutcome]:
            [day] = some
            try:
                done = tables.build(PendingDate(day, versions[day], inputs[day]), run_id=run_id, progress=progress)
            except (CheckError, InputError) as error:
                refused[day] = error
                return {}
            return {day: done}

        def find(stale: Mapping[date, str]) -> dict[date, StageOutcome]:
            found = tables.find_done(dict(stale))
            about = {"source_table": source.raw_table}
            return {n: replace(done, details={**about, "source_version": versions[n]}) for n, done in found.items()}

        records, pending = stage.run_nights(inputs, work, at_once=1, rebuild=rebuild, find=find)
    if refused and not records:
        first = refused[min(refused)]
        raise (
            first
            if len(refused) == 1
            else type(first)(f"All {_format_refusals(recommender.name, refused, len(refused))}")
        )
    built = [night for night in pending if night not in refused]
    return stage.result(
        sum(row.rows for row in records.values()),
        nights=sorted(records),
        table=table,
        version=table_version(settings, table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "refused": {night.isoformat(): str(refused[night]) for night in sorted(refused)},
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
            "nights": {night.isoformat(): dict(records[night].details) for night in sorted(records)},
        },
    )


def _inputs(settings: Settings, recommender: Recommender, night: date, pins: Pins) -> str:
    """Inputs of a date's lists: states of the sources, the declaration, and the catalogue on the gate's eve."""
    eve = first_test_day(recommender, night) - timedelta(days=1)
    states = [source_state(settings, each, [night], pins=pins)[night] for each in recommender.all_sources]
    before = recommender.catalogue.sources if recommender.catalogue is not None else ()
    states += [f"before:{source_state(settings, each, [eve], pins=pins)[eve]}" for each in before]
    return f"{' '.join(states)} declared={recommender.fingerprint}"


def refused_dates(result: StageResult) -> str:
    """A sentence with each date that a run refused and the reason; "" if it refused none."""
    refused: Mapping[str, str] = result.details["refused"]
    if not refused:
        return ""
    return f"{len(refused)} of {_format_refusals(result.subject, refused, len(refused) + len(result.nights))}"


def _format_refusals(name: str, refused: Mapping[Any, Any], num_dates: int) -> str:
    reasons = " ".join(f"{night}: {refused[night]}" for night in sorted(refused))
    return f"{num_dates} dates of {name} were refused. {reasons}"
