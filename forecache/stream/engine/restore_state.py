"""Rebuilds the state of a stream at its start: the tiles of its views and the ids for deduplication.

Both are in local files, up to some row of the stream's table. Later rows are read from the table.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.stream_tables import hour_of
from forecache.stream.dedup.deduplicator import Deduplicator
from forecache.stream.live_layers import layers_of
from forecache.stream.state import stream_folder
from forecache.stream.step import StreamStep
from forecache.stream.table.rows import TableCursor, TableRows, has_row
from forecache.stream.table.schema import (
    ALL_PARTITIONS,
    EVENT_DAY,
    HOUR,
    OFFSET,
    PARTITION,
    PLACE,
    POSITION,
    RECEIVED_AT,
    Shard,
    add_missing_columns,
    event_fields,
)
from forecache.stream.table.writer import offsets_of
from forecache.stream.tiles.saver import COMMITS, TileSaver
from forecache.stream.tiles.tile_file import TileFile
from forecache.stream.tiles.view_tiles import ViewTiles

logger = logging.getLogger("forecache.stream")
FILE = "TILES"
_PART_ROWS = 1 << 16
_EPOCH = date(1970, 1, 1)


def tile_saver(
    settings: Settings, stream: Stream, views: Mapping[str, ViewTiles], *, commits: int = COMMITS,
    shard: Shard = ALL_PARTITIONS,
) -> TileSaver:  # fmt: skip
    """Make the saver of a stream's tiles, and remove incomplete files; this process holds the stream's lock."""
    folder = stream_folder(settings.home_path, shard.name_of(stream.name)) / "tiles"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != FILE:
            path.unlink()
    # Everything that tiles depend on, except the rows of the table and the batch states.
    types = {field.name: str(field.type) for field in event_fields(stream.topic)}
    layers = layers_of(stream)
    parts = [
        (name, layers[name].values_id, [(column, types.get(column)) for column in view.plan.reads])
        for name, view in views.items()
    ]
    declaration = xxhash.xxh3_128_hexdigest(json.dumps([stream.table, parts]).encode())
    return TileSaver(folder / FILE, declaration, views, commits=commits)


def restore_tiles(saver: TileSaver, views: Mapping[str, ViewTiles], table: TableRows | None) -> TableCursor | None:
    """Restore the tiles of empty views at their current batch states, from a file that fits declaration and table.

    Returns the cursor after which rows have to be added, None if there is no file. A file that does not certainly fit
    is removed; one that cannot be read now is kept for the next start. In both cases the views stay empty.
    """
    try:
        file = TileFile(saver.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning(
            "The file %s cannot be read now (%s), and all tiles are made from the rows of the table.", saver.path, error
        )
        return None
    except DamagedError as error:
        reason = error.message
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read ({error})"
    else:
        reason = _find_mismatch(file, saver.declaration, views, table) or _restore_views(file, views)
        if not reason:
            return file.of.mark
    logger.warning(
        "The file %s is not used, and all tiles are made from the rows of the table: %s.", saver.path, reason
    )
    with suppress(OSError):
        saver.path.unlink()
    return None


def _restore_views(file: TileFile, views: Mapping[str, ViewTiles]) -> str:
    """Add the tiles of the file to the views; returns why that failed, or ""."""
    try:
        for name, keys, tiles in file.parts():
            views[name].restore(keys, tiles)
    except (DamagedError, ValueError) as error:
        for view in views.values():
            view.clear()
        return f"it cannot be read ({error})"
    return ""


def _find_mismatch(file: TileFile, declaration: str, views: Mapping[str, ViewTiles], table: TableRows | None) -> str:
    """Return why the file may differ from tiles made from the table's rows; "" if it certainly does not."""
    if file.of.declaration != declaration:
        return "it is of another declaration of the stream or its views"
    for name, view in views.items():
        if view.complete_from < file.of.complete_from[name]:
            return f"the view {name} stands on an older as-of date than the one that its tiles were kept for"
    if table is None or not has_row(table.dataset, file.of.mark):
        return "the table does not have its last row, so that it was made anew or restored"
    if table.count_up_to(file.of.mark.position) != file.of.rows:
        return "the table has another number of rows up to its last one: some were removed, or added by another process"
    return ""


def rebuild_state(
    settings: Settings, stream: Stream, step: StreamStep, tiles: TileSaver | None = None, *,
    shard: Shard = ALL_PARTITIONS,
) -> tuple[int, int]:  # fmt: skip
    """Rebuild tiles and ids of a new step; returns how many rows of the table were read for tiles and for ids.

    Tiles are made from the events of the days after the batch states, all from rows without a saver `tiles`. The
    process holds the stream's lock, so no other one uses the files.
    """
    table = open_rows(settings, stream, shard)
    ids = load_ids(settings, stream, step.repeats, table, shard=shard)
    return _replay_rows(stream, step, table, tiles), ids


def load_ids(
    settings: Settings, stream: Stream, repeats: Deduplicator, table: TableRows | None, *, shard: Shard = ALL_PARTITIONS
) -> int:
    """Load the ids of the last days; returns how many rows were read from the table because no file had them."""
    unique = set(stream.source.unique)
    if not unique:
        return 0
    fields = [field for field in event_fields(stream.topic) if field.name in unique]
    since = datetime.now(timezone.utc).date() - timedelta(days=stream.late_days)
    ids = {field.name: str(field.type) for field in sorted(fields, key=lambda field: field.name)}
    folder = stream_folder(settings.home_path, shard.name_of(stream.name)) / "ids"
    repeats.open(folder, ids=ids, since=(since - _EPOCH).days)
    if repeats.cursor is not None and (table is None or not has_row(table.dataset, repeats.cursor)):
        repeats.discard_files()
    return 0 if table is None else repeats.add_table_rows(_rows_after_cursor(table, fields, repeats.cursor, since))


def _replay_rows(stream: Stream, step: StreamStep, table: TableRows | None, tiles: TileSaver | None) -> int:
    since = step.use_current_states()
    mark = None if tiles is None else restore_tiles(tiles, step.views, table)
    if table is None or not step.views:
        return 0
    fields = event_fields(stream.topic)
    columns, wanted = [EVENT_DAY, *(field.name for field in fields)], pc.field(EVENT_DAY) >= pa.scalar(since)
    if mark is not None:
        wanted &= pc.field(POSITION) > mark.position
    first = last = -1 if mark is None else mark.position

    def parts() -> Iterator[pa.Table]:
        nonlocal last
        for rows in table.read_in_order(columns, wanted):
            last = rows[POSITION][-1].as_py()
            yield add_missing_columns(rows, fields)

    count = step.replay(parts())
    if tiles is not None:
        mark = table.find_last_row(last) if last > first else mark
        up_to = 0 if mark is None else table.count_up_to(mark.position)
        tiles.begin(mark, up_to=up_to, commits=last - first, rows=count)
    return count


def open_rows(settings: Settings, stream: Stream, shard: Shard = ALL_PARTITIONS) -> TableRows | None:
    """Open the rows of the stream, or of a shard, at the table's current version; None if there is no table."""
    delta = open_if_exists(settings, stream.table)
    return None if delta is None else TableRows(delta, shard.rows_filter(offsets_of(delta, stream.name)))


def _rows_after_cursor(
    table: TableRows, fields: Sequence[pa.Field], mark: TableCursor | None, since: date
) -> Iterator[pa.Table]:
    """Read the rows after a cursor that were received since a day, in any order."""
    first = datetime.combine(since, datetime.min.time(), timezone.utc)
    wanted = (pc.field(HOUR) >= hour_of(first)) & (pc.field(RECEIVED_AT) >= pa.scalar(first, pa.timestamp("us", "UTC")))
    if mark is not None:
        wanted &= pc.field(POSITION) > mark.position
    dataset, wanted = table.dataset, table.restrict(wanted)
    there = [field.name for field in fields if field.name in dataset.schema.names]
    columns = [POSITION, PLACE, PARTITION, OFFSET, RECEIVED_AT, *there]
    for batch in dataset.to_batches(columns, filter=wanted, batch_size=_PART_ROWS, fragment_readahead=2):
        if batch.num_rows:
            yield add_missing_columns(pa.Table.from_batches([batch]), fields)
