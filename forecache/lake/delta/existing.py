"""Existing tables, which are written by others."""

import os
from typing import TYPE_CHECKING

from forecache.errors import NotFoundError, UnavailableError
from forecache.lake.delta.files import Place
from forecache.names import NAME
from forecache.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable


def place_of_uri(settings: Settings, uri: str) -> Place:
    """The place of an existing table; a relative folder is relative to the process's working folder."""
    if "://" not in uri:
        return Place(os.path.abspath(uri))
    if uri.startswith("file://"):
        return Place(uri.removeprefix("file://"))
    return Place(uri.replace("s3a://", "s3://", 1), settings.storage_options)


def open_existing(settings: Settings, table: str, *, what: str) -> "DeltaTable":
    """Open a table of the lake by its name, or any Delta table by its folder or URI, at its newest version.

    Args:
        what: Name of the table's role for messages, such as "The labelled table".

    Raises:
        NotFoundError: There is no such table.
        UnavailableError: It does not open, for example because an object store does not answer.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    place = place_of_uri(settings, settings.table_uri(table) if NAME.fullmatch(table) else table)
    try:
        return DeltaTable(place.uri, storage_options=dict(place.options) or None)
    except TableNotFoundError:
        raise NotFoundError(
            f"{what} {table!r} cannot be read: there is no Delta table in {place.uri}.",
            remedy="Give the URI of a Delta table, or the name of a table in the lake.",
        ) from None
    except (DeltaError, OSError) as error:
        raise UnavailableError(
            f"{what} {table!r} cannot be read: {str(error).splitlines()[0]}.",
            remedy="Check its URI and FORECACHE_STORAGE_OPTIONS.",
        ) from error
