"""Taking over from a trial what it has computed from equal inputs: rows of a date, a training set, a training.

A run asks for it just before it would compute. Rows are read and counted first, and then committed by the run's own
commit with its own inputs, so a kill at any instant leaves what a kill of the run would leave. Data files are hard
links to those of the trial, or in a bucket copies that the object store makes.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.errors import DamagedError
from forecache.base.results import Progress
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, describe_files, new_path, place_of
from forecache.kit.delta.log import active_files, group_by_partition, open_if_exists
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions
from forecache.kit.delta.tables import commit_partitions, replace_table
from forecache.kit.delta.writers import new_folder
from forecache.kit.installation import open_state
from forecache.lake.ledger import StageRecord, last_record, last_records
from forecache.lake.stage_runner import Stage, StageOutcome, format_nights
from forecache.models.training.spec import REFIT, RESULT_FILE, SPEC_FILE, load_spec
from forecache.plugins.trials.equal_work import OTHER_WORK, Numbers, OtherSide, other_sides
from forecache.plugins.trials.share_files import share_files
from forecache.scoring.tasks.prediction_file import open_output


def adopt_partitions(
    stage: Stage,
    table: str,
    stale: Mapping[date, str],
    *,
    column: str,
    seen: TableSnapshot,
    progress: Progress,
) -> dict[date, Mapping[str, Any]]:
    """Commit the rows of dates that a trial has computed from equal inputs; the caller finds and records them.

    `stale` are the inputs of the dates, `seen` the table before they were read. Returns the details that the trial has
    recorded of the dates. ConflictError if another run wrote one of the dates from other inputs meanwhile.
    """
    left, details = dict(stale), dict[date, Mapping[str, Any]]()
    for side in other_sides(stage.settings, progress):
        if not left:
            break
        found = _DateFiles(None, {}, {})
        with _leave_out(side, progress):
            found = _collect_dates(side, stage, table, left, column, progress)
        done = sorted(found.files)
        if not done:
            continue
        commit_partitions(
            (found.schema, [file for night in done for file in found.files[night]]),
            stage.settings,
            table,
            column=column,
            values=done,
            seen=seen,
            inputs={night: left.pop(night) for night in done},
            run_id=stage.run_id,
        )
        details |= {night: found.details[night] for night in done}
        _report(stage, side, progress, f" for {format_nights(done)}")
    return details


class _DateFiles(NamedTuple):
    """Files of a trial's dates, linked into the table's folder, their columns, and what the trial recorded of them."""

    schema: Any  # of deltalake; None without files
    files: Mapping[date, Sequence[DataFile]]
    details: Mapping[date, Mapping[str, Any]]


def _collect_dates(
    side: OtherSide, stage: Stage, table: str, wanted: Mapping[date, str], column: str, progress: Progress
) -> _DateFiles:
    """The dates that the trial has from equal inputs, and whose rows are still those that its ledger has."""
    equal: dict[date, StageRecord] = {}
    for night, row in last_records(side.trial, stage.name, stage.subject, nights=wanted).items():
        if night is not None and night in wanted and side.is_own(row):
            why = side.find_difference(row.inputs, wanted[night], night)
            _report_moved(stage, side, why, progress, f" for {night}")
            equal |= {} if why else {night: row}
    if not equal or not _is_fork(side, progress):
        return _DateFiles(None, {}, {})
    theirs = {night: row.inputs for night, row in equal.items()}
    delta = open_if_exists(side.trial, table)  # first: what the trial commits from other inputs meanwhile is not whole
    whole = find_committed_partitions(side.trial, table, column=column, inputs=theirs)
    if delta is None or not whole:
        return _DateFiles(None, {}, {})
    by_date = group_by_partition(active_files(delta), column)
    taken = {
        night: _take_files(side, table, by_date.get(night.isoformat(), []), side.renumber(theirs[night], wanted[night]))
        for night in whole
    }
    files = {night: some for night, some in taken.items() if some}  # without a row, what its columns are is not known
    return _DateFiles(
        _read_schema(side, delta, table, [each for some in files.values() for each in some], column),
        files,
        {night: _without_cost(row) for night, row in equal.items()},
    )


def _read_schema(side: OtherSide, delta: Any, table: str, files: Sequence[DataFile], column: str) -> Any:
    """The columns that the files have: the trial's table also has those that an earlier try added."""
    from deltalake import Schema

    filesystem, names = place_of(side.base, table).open(), {column}
    for file in files:
        with open_data_file(filesystem, file.path, table) as opened:
            names.update(pq.read_schema(opened).names)
    return Schema([each for each in delta.schema().fields if each.name in names])


def _without_cost(record: StageRecord) -> dict[str, Any]:
    """The details of a record, but for what the work took."""
    return {name: value for name, value in record.details.items() if name != "cost"}


def adopt_table(
    stage: Stage, table: str, inputs: str, *, state: Sequence[str], progress: Progress
) -> StageOutcome | None:
    """Replace a table, and files of the lake's state, by those of a trial that has made them from equal inputs.

    None if there is none.
    """
    for side in other_sides(stage.settings, progress):
        found: _TableFiles | None = None
        with _leave_out(side, progress):
            found = _collect_table(side, stage, table, inputs, state, progress)
        if found is not None:
            version = replace_table(stage.settings, table, found.schema, found.files, run_id=stage.run_id)
            for name, content in found.state.items():
                open_state(stage.settings).write(name, content)
            _report(stage, side, progress)
            # No time of its own, by which later ones would be estimated.
            return StageOutcome(found.record.rows, _without_cost(found.record), table, version, seconds=0.0)
    return None


class _TableFiles(NamedTuple):
    """A trial's record of a table, with its columns, its linked files, and files of the trial's state."""

    record: StageRecord
    schema: Any  # of deltalake
    files: Sequence[DataFile]
    state: Mapping[str, bytes]


def _collect_table(
    side: OtherSide, stage: Stage, table: str, inputs: str, state: Sequence[str], progress: Progress
) -> _TableFiles | None:
    """A table that the trial has made from equal inputs; None without one."""
    theirs = _find_equal(side, stage, inputs, progress)
    delta = None if theirs is None else open_if_exists(side.trial, table, version=theirs.delta_version)
    if theirs is None or delta is None:
        return None
    contents = {name: open_state(side.trial).read(name) for name in state}
    known = {name: content[0] for name, content in contents.items() if content is not None}
    files = _take_files(side, table, active_files(delta), {})
    if files is None or sum(file.rows for file in files) != theirs.rows or len(known) < len(state):
        return None
    return _TableFiles(theirs, delta.schema(), files, known)


def find_equal_training(stage: Stage, inputs: str, *, progress: Progress) -> Path | None:
    """The folder of a trial's training from equal inputs; None if there is none."""
    for side in other_sides(stage.settings, progress):
        with _leave_out(side, progress):
            theirs = _find_equal(side, stage, inputs, progress)
            if theirs is not None:
                folder = side.trial.training_path / stage.subject / Path(theirs.details["run_dir"]).name
                if (folder / RESULT_FILE).is_file():
                    _require_whole(folder)
                    _report(stage, side, progress)
                    return folder
    return None


def _require_whole(folder: Path) -> None:
    """Raise an error if a file of an ended training is missing or damaged, but for the model, which the gate judges."""
    from forecache.models.registry.register import find_model_file

    load_spec(folder / SPEC_FILE)
    result = json.loads((folder / RESULT_FILE).read_text())
    for place in (folder, folder / REFIT) if "refit" in result else (folder,):
        find_model_file(place)


@contextmanager
def _leave_out(side: OtherSide, progress: Progress) -> Iterator[None]:
    """Leave out a trial that cannot be read, such as one that is removed meanwhile: the stage is computed then."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever a trial is like, the environment's run goes on)
        progress(f"{side.name} is left out, as it cannot be read: {error}", None)


def _find_equal(side: OtherSide, stage: Stage, inputs: str, progress: Progress) -> StageRecord | None:
    """The trial's own last record of a stage without dates, if its inputs are equal."""
    row = last_record(side.trial, stage.name, stage.subject)
    if row is None or not side.is_own(row):
        return None
    why = side.find_difference(row.inputs, inputs, None)
    _report_moved(stage, side, why, progress)
    return None if why or not _is_fork(side, progress) else row


def _is_fork(side: OtherSide, progress: Progress) -> bool:
    """Tell if a trial that has equal work is a fork of the lake that is here; only then, as it reads both ledgers."""
    is_fork = side.is_fork()
    if not is_fork:
        progress(f"{side.name} is left out: it was forked from a lake that was replaced since", None)
    return is_fork


def _report(stage: Stage, side: OtherSide, progress: Progress, dates: str = "") -> None:
    progress(f"{stage.name} of {stage.subject}{dates}: taken over from {side.name}, which had equal inputs", None)


def _report_moved(stage: Stage, side: OtherSide, why: str, progress: Progress, dates: str = "") -> None:
    if why and why != OTHER_WORK:
        progress(f"{stage.name} of {stage.subject}{dates} is computed: {side.name} did it, but {why}", None)


def _take_files(
    side: OtherSide, table: str, files: Sequence[DataFile], numbers: Mapping[str, Numbers]
) -> list[DataFile] | None:
    """Read a trial's files whole, and link or copy them into the table, or write them again with the numbers of
    versions here; None if one cannot be read, or has a version that is not known here."""
    source, target = place_of(side.trial, table), place_of(side.base, table)
    theirs, ours, folder = source.open(), target.open(), new_folder()
    paths = {file.path: new_path(folder, file.partition, number=place) for place, file in enumerate(files)}
    differing = set()
    for file in files:
        try:
            differs = _compare_numbers(theirs, file, table, numbers)
        except (DamagedError, FileNotFoundError):
            return None
        if differs is None:
            return None
        if differs:
            differing.add(file.path)
    shared = {path: new for path, new in paths.items() if path not in differing}
    if "://" not in source.uri:
        for path in shared:  # a link is as old as its file, and maintenance removes old files that no version has yet
            os.utime(Path(source.uri, path))
    share_files(source, target, shared)
    for path in differing:
        _write_renumbered(theirs, ours, path, paths[path], table, numbers)
    described = describe_files(ours, [(path, ours.get_file_info(path).size) for path in paths.values()])
    found = [file for file in described if file is not None]
    assert len(found) == len(paths), table
    return found


def _compare_numbers(filesystem: Any, file: DataFile, table: str, numbers: Mapping[str, Numbers]) -> bool | None:
    """Read a file whole; tell if a number of a version is another one here, None if it is not known here."""
    differs, rows = False, 0
    with open_data_file(filesystem, file.path, table) as opened:
        for batch in pq.ParquetFile(opened).iter_batches(use_threads=False):
            rows += len(batch)
            for name in numbers.keys() & set(batch.schema.names):
                some = numbers[name].differ(pc.unique(batch.column(name)).to_pylist())
                if some is None:
                    return None
                differs |= some
    if rows != file.rows:
        raise DamagedError(f"{file.path} has {rows} rows, and the log of {table!r} says {file.rows}.")
    return differs


def _write_renumbered(theirs: Any, ours: Any, path: str, new: str, table: str, numbers: Mapping[str, Numbers]) -> None:
    with open_data_file(theirs, path, table) as opened:
        parquet = pq.ParquetFile(opened)
        with open_output(ours, new, parquet.schema_arrow) as output:
            for batch in parquet.iter_batches(use_threads=False):
                for name in numbers.keys() & set(batch.schema.names):
                    place, column = batch.schema.get_field_index(name), batch.column(name)
                    here = pa.scalar(numbers[name].here, column.type)
                    column = pc.if_else(pc.equal(column, numbers[name].there), here, column)
                    batch = batch.set_column(place, batch.schema.field(name), column)
                output.write(batch)
