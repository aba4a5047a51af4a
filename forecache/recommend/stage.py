"""The nightly stage of a recommender: fit, judge, rank for every user, and write the lists, each as-of date once."""

import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from forecache.lake.delta.partitions import Seen, find_committed, look
from forecache.lake.delta.tables import open_table, table_version
from forecache.lake.ingest.ingested import ingested_files, raw_state, require_days
from forecache.lake.stage import Done, Stage
from forecache.lake.turn import own_turn
from forecache.pipeline import AS_OF, Recommender
from forecache.pipeline.as_of import require_as_of
from forecache.recommend.gate import judge
from forecache.recommend.interactions import Interactions
from forecache.recommend.lists import lists_of
from forecache.recommend.write import write_lists
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "recommend"


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

    Args:
        rebuild: Write those of all the dates.

    Returns:
        Rows (users) over all dates asked for; `details` has `built` (dates written), `rows_by_night` and, by date,
        `nights` with the gate's figures, the number of items and what the steps took.

    Raises:
        InputError: A date is no as-of date, has no landing file, or its interactions cannot be learned from.
        CheckError: The gate refuses the model; what was written before stays.
        ConflictError: Another run wrote one of the dates from other inputs meanwhile.
    """
    started = time.perf_counter()
    source, table = recommender.source, recommender.prediction_table
    with own_turn(settings, table, run_id, progress):
        require_as_of(recommender, nights)
        require_days(settings, source, nights)
        seen = look(settings, table, AS_OF)
        files = ingested_files(settings, source)
        versions = {night: raw_state(settings, source, night, files=files) for night in nights}
        inputs = {n: f"{source.raw_table}@{v} declared={recommender.fingerprint}" for n, v in versions.items()}

        def work(some: Sequence[date]) -> dict[date, Done]:
            [night] = some
            source_version, wanted = versions[night], inputs[night]
            return {
                night: _write_night(
                    settings, recommender, night,
                    source_version=source_version, seen=seen, inputs=wanted, run_id=run_id, progress=progress,
                )
            }  # fmt: skip

        def find(stale: Mapping[date, str]) -> dict[date, Done]:
            written = find_committed(settings, table, column=AS_OF, inputs=stale)
            return {n: Done(writer.rows, table=table, delta_version=writer.version) for n, writer in written.items()}

        records, built = Stage(settings, STAGE, recommender.name, run_id).nights(
            inputs, work, at_once=1, rebuild=rebuild, find=find
        )
    return StageResult(
        stage=STAGE,
        subject=recommender.name,
        rows=sum(row.rows for row in records.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(nights)),
        table=table,
        delta_version=table_version(settings, table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
            "nights": {night.isoformat(): dict(records[night].details) for night in sorted(records)},
        },
    )


def _write_night(
    settings: Settings,
    recommender: Recommender,
    night: date,
    *,
    source_version: int,
    seen: Seen,
    inputs: str,
    run_id: str,
    progress: Progress,
) -> Done:
    """Judge, fit and rank for one as-of date, and commit its lists."""
    progress(f"reading the interactions up to {night}", 0.0)
    interactions, groups = read_interactions(settings, recommender, night)
    progress(f"judging the model of {recommender.name}", 0.1)
    verdict = judge(recommender, interactions, night, groups)
    progress(f"fitting {recommender.name} to {len(interactions):,} interactions", 0.4)
    started = time.perf_counter()
    fitted = recommender.model.fit(interactions, seed=recommender.seed)
    fit_s, started = time.perf_counter() - started, time.perf_counter()
    version = write_lists(
        settings,
        recommender,
        lists_of(recommender, fitted, interactions, night, groups),
        night,
        source_version=source_version,
        seen=seen,
        inputs=inputs,
        run_id=run_id,
        progress=progress,
    )
    figures = {
        **verdict,
        "items": fitted.num_items,
        "interactions": len(interactions),
        "fit_s": round(fit_s, 2),
        "rank_s": round(time.perf_counter() - started, 2),
    }
    return Done(interactions.num_users, figures, recommender.prediction_table, version)


def read_interactions(
    settings: Settings, recommender: Recommender, night: date
) -> tuple[Interactions, dict[Any, Any] | None]:
    """The interactions up to an as-of date, and the group by item: the latest one that is not null.

    Raises:
        InputError: There are none.
    """
    source = recommender.source
    columns = {recommender.user, recommender.item, source.event_time, recommender.weight, recommender.group} - {None}
    rows = read_days(settings, recommender, night, sorted(map(str, columns)))
    interactions = Interactions.from_table(
        rows, user=recommender.user, item=recommender.item, time=source.event_time, weight=recommender.weight
    )
    if recommender.group is None:
        return interactions, None
    return interactions, _groups(rows, recommender.item, recommender.group, source.event_time)


def read_days(settings: Settings, recommender: Recommender, night: date, columns: list[str]) -> "pa.Table":
    """Columns of the interactions that count for an as-of date."""
    import pyarrow.dataset as ds

    chosen = ds.field("event_day") <= night
    if recommender.history_days is not None:
        chosen &= ds.field("event_day") > night - timedelta(days=recommender.history_days)
    return open_table(settings, recommender.source.raw_table).to_pyarrow_dataset().to_table(columns, chosen)


def _groups(rows: "pa.Table", item: str, group: str, time: str) -> dict[Any, Any]:
    """Of several on one day an item has the last by name, whatever the order in which the files hold them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named = rows.select([item, group, time]).filter(pc.field(group).is_valid())
    ordered = named.sort_by([(name, "ascending") for name in (time, group)])
    latest = pa.TableGroupBy(ordered, item, use_threads=False).aggregate([(group, "last")])
    return dict(zip(latest[item].to_pylist(), latest[f"{group}_last"].to_pylist(), strict=True))
