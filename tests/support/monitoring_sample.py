"""A champion, scored nights that are calm or drifted, and the visits that label them, all in one lake."""

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import registry_sample as sample
from deltalake import DeltaTable, write_deltalake
from monitored_project.pipelines.returns import monitored
from scoring_support import write_features
from training_sample import sample_rows, write_training_set

from forecache.base.settings import Settings
from forecache.lake.ingest.ingested_files import IngestedFile, record_files
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.scoring.run import score

CALM = [date(2024, 8, day) for day in (2, 3, 4)]
DRIFTED = [date(2024, 8, day) for day in (5, 6, 7)]
ROWS = 1600
_HORIZON = timedelta(days=monitored.label.horizon_days)


def make_lake(settings: Settings) -> None:
    """Nights of `monitored` from 2024-08-02 on, and those a label horizon before.

    On the drifted nights people spend five times as much, more of them are unknown, and whether those of a horizon
    before came back has nothing to do with their scores.
    """
    write_training_set(settings, monitored)
    champion(settings, sample.GOOD)
    trained(settings, sample.NIGHT)
    visits = []
    for number, night in enumerate(CALM + DRIFTED):
        drifted = night in DRIFTED
        rows = _rows(night, seed=10 + number)
        labelled = _rows(night - _HORIZON, seed=20 + number)
        label = labelled["returned"].to_numpy()
        if drifted:
            rows = _set(rows, "amount", rows["amount"].to_numpy() * 5)
            rows = _set(rows, "gap", np.where(np.arange(ROWS) % 2, rows["gap"].to_numpy(), np.nan))
            label = np.random.default_rng(number).permutation(label)
        came = labelled.filter(pa.array(label > 0.5))["user_id"]
        visits.append((came, night - _HORIZON + timedelta(days=1)))
        write_features(settings, monitored, [rows.drop_columns("returned")], night=night)
        write_features(settings, monitored, [labelled.drop_columns("returned")], night=night - _HORIZON)
    _write_visits(settings, visits)
    nights = [*CALM, *DRIFTED]
    score(settings, monitored, [*nights, *(night - _HORIZON for night in nights)], engine="arrow")


def write_history(settings: Settings, *, users: int = 600) -> None:
    """Visits since the source began until the last night, often or seldom by the user, as ingestion leaves them.

    After `make_lake`; with them the pipeline can be trained as of the last night.
    """
    rng = np.random.default_rng(5)
    source, last = monitored.sources[0], DRIFTED[-1]
    days = (last - source.start).days + 1
    rate = 0.2 * rng.random(users) ** 3
    who, when = np.nonzero(rng.random((users, days)) < rate[:, None])
    at = [source.start + timedelta(days=offset) for offset in range(days)]
    day = pa.array([at[offset] for offset in when], pa.date32())
    table = pa.table(
        {
            "user_id": pa.array([f"h{number:04d}" for number in who]),
            "day": day,
            "amount": rng.exponential(50.0, len(who)),
            "event_day": day,
            "source_file": pa.array([f"{at[offset]}.csv" for offset in when]),
            "source_line": pa.array(np.arange(len(who)) + 2),
        }
    )
    uri = settings.table_uri(source.raw_table)
    write_deltalake(uri, table, mode="append", schema_mode="merge", partition_by=["event_day"])
    version, now = DeltaTable(uri).version(), datetime.now(timezone.utc)
    rows = np.bincount(when, minlength=days)
    record_files(
        settings,
        [
            IngestedFile(
                source=source.name,
                file=f"{event_day}.csv",
                event_day=event_day,
                size_bytes=1,
                modified_at=now,
                sha256="",
                landing_rows=int(num_rows),
                raw_rows=int(num_rows),
                quarantined_rows=0,
                error=None,
                raw_version=version,
                ingested_at=now,
                run_id="",
                code_version="",
            )
            for event_day, num_rows in zip(at, rows, strict=True)
        ],
    )


def champion(settings: Settings, weights: tuple[float, ...]) -> int:
    """Register a linear model and let the gate judge it."""
    training = sample.made_up_training(settings, monitored, weights, training_version=2)
    version = int(register_trained_model(settings, monitored, training).details["model_version"])
    run_gate(settings, monitored, version, actor="test")
    return version


def trained(settings: Settings, night: date) -> None:
    """Enter a training in the ledger, ended now."""
    details = {"as_of": night.isoformat()}
    append_records(settings, [StageRecord("train", monitored.name, None, f"{night}", "", -1, 1, 1.0, details)])


def _rows(night: date, *, seed: int) -> pa.Table:
    """Entities of one night only, with the label that the features make likely."""
    rows = sample_rows(monitored, ROWS // 4, seed=seed).drop_columns("split")
    rows = _set(rows, "user_id", [f"{night}-{i}" for i in range(ROWS)])
    return rows.set_column(rows.schema.get_field_index("as_of"), "as_of", pa.array([night] * ROWS, pa.date32()))


def _set(rows: pa.Table, name: str, values: object) -> pa.Table:
    array = pa.array(values, rows.schema.field(name).type, from_pandas=True)
    return rows.set_column(rows.schema.get_field_index(name), name, array)


def _write_visits(settings: Settings, visits: list[tuple[pa.ChunkedArray, date]]) -> None:
    parts = [
        pa.table({"user_id": users, "day": pa.array([day] * len(users), pa.date32()), "amount": [1.0] * len(users)})
        for users, day in visits
    ]
    append_visits(settings, pa.concat_tables(parts))


def append_visits(settings: Settings, table: pa.Table) -> None:
    """Append raw rows that are of no landing file's lines, so that they are not counted with `write_history`'s."""
    table = table.append_column("event_day", table["day"]).append_column("source_file", pa.array([""] * len(table)))
    table = table.append_column("source_line", pa.array([0] * len(table), pa.int64()))
    write_deltalake(settings.table_uri("raw_visits"), table, mode="append", partition_by=["event_day"])
