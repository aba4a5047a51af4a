"""Restores tiles from their file at a start if it fits the stream's declaration and its table."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress

import xxhash

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings
from forecache.base.stream_state import stream_folder
from forecache.declare import Stream
from forecache.stream.live_layers import layers_of
from forecache.stream.step.view_tiles import ViewTiles
from forecache.stream.table.table_rows import TableRows
from forecache.stream.table_cursor import TableCursor, has_row
from forecache.stream.table_schema import event_fields
from forecache.stream.tiles.saver import COMMITS, TileSaver
from forecache.stream.tiles.tile_file import TileFile

logger = logging.getLogger("forecache.stream")
FILE = "TILES"


def tile_saver(
    settings: Settings, stream: Stream, views: Mapping[str, ViewTiles], *, commits: int = COMMITS
) -> TileSaver:
    """Make the saver of a stream's tiles, and remove incomplete files; this process holds the stream's lock.

    Args:
        commits: The file is written again once it lacks so many commits.
    """
    folder = stream_folder(settings.home_path, stream.name) / "tiles"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != FILE:
            path.unlink()
    return TileSaver(folder / FILE, declaration_of(stream, views), views, commits=commits)


def declaration_of(stream: Stream, views: Mapping[str, ViewTiles]) -> str:
    """Hash everything that tiles depend on, except the rows of the table and the batch states."""
    types = {field.name: str(field.type) for field in event_fields(stream.topic)}
    layers = layers_of(stream)
    parts = [
        (name, layers[name].values_id, [(column, types.get(column)) for column in view.plan.reads])
        for name, view in views.items()
    ]
    return xxhash.xxh3_128_hexdigest(json.dumps([stream.table, parts]).encode())


def restore_tiles(saver: TileSaver, views: Mapping[str, ViewTiles], table: TableRows | None) -> TableCursor | None:
    """Restore the tiles of empty views; returns the cursor after which rows have to be added, None if there is no file.

    A file that does not certainly fit is removed; one that cannot be read now is kept for the next start. In both cases
    the views stay empty.

    Args:
        views: Views at their current batch states.
        table: The stream's table; None if there is none.
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
            return f"the view {name} stands on an older night than the one that its tiles were kept for"
    if table is None or not has_row(table.dataset, file.of.mark):
        return "the table does not have its last row, so that it was made anew or restored"
    if table.count_up_to(file.of.mark.position) != file.of.rows:
        return "the table has another number of rows up to its last one: some were removed, or added by another process"
    return ""
