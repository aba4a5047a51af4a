"""Rows of a database as text, in batches from a server-side cursor; error messages do not have the URL's password."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError, SettingsError, UnavailableError
from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.declare.sources.query import Query

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

TextRow = tuple[str | None, ...]
_CONNECT_S = 10


def text_batches(settings: Settings, source: Source, query: Query, day: date) -> Iterator[list[TextRow]]:
    """Yield the values of the source's columns, in the order of the declaration; at most `batch_rows` at a time.

    For events those of the day (UTC), otherwise all. One statement, which sees one state of the database. Errors say
    that the settings lack the database, that it refuses the query or lacks a column, or that it does not answer.
    """
    names = [column.name for column in source.columns]
    url = _url(settings, source, query)
    with _translate_errors(source, query, url), _open_connection(url, query) as connection:
        statement, bounds = _statement(source, query, names), _bounds(day, url) if source.event_time else {}
        result = connection.execute(statement, bounds)
        keys = list(result.keys())
        missing = sorted(set(names) - set(keys))
        if missing:
            raise InputError(
                f"The query of source {source.name!r} returns no column {missing[0]!r}.",
                remedy=f"It returns {', '.join(keys)}: name its columns as they are declared.",
            )
        twice = sorted(name for name in names if keys.count(name) > 1)
        if twice:
            raise InputError(
                f"The query of source {source.name!r} returns the column {twice[0]!r} {keys.count(twice[0])} times.",
                remedy="Name the columns that it selects.",
            )
        places = [keys.index(name) for name in names]
        for rows in result.partitions(query.batch_rows):
            yield [tuple(_to_text(row[place]) for place in places) for row in rows]


def require_database(settings: Settings, source: Source) -> None:
    """Connect to the database of a source's query; raises as `text_batches`, except for errors of the query."""
    assert isinstance(source.extract, Query)
    url = _url(settings, source, source.extract)
    with _translate_errors(source, source.extract, url), _open_connection(url, source.extract):
        pass


def _url(settings: Settings, source: Source, query: Query) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    text = settings.databases.get(query.database)
    if text is None:
        raise SettingsError(
            f"Source {source.name!r} queries the database {query.database!r}, which FORECACHE_DATABASES does not have.",
            remedy='Set it like {"' + query.database + '": "postgresql://user:password@host/database"}.',
        )
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(
            f"The database {query.database!r} of FORECACHE_DATABASES has no URL that can be read; it is not shown.",
            remedy="Write it like postgresql://user:password@host/database.",
        ) from None
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


@contextmanager
def _open_connection(url: "URL", query: Query) -> "Iterator[Connection]":
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": query.batch_rows}
    given: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        options["postgresql_readonly"] = True
        # The bounds have a time zone: columns without one are compared with them as UTC.
        given = {"connect_timeout": _CONNECT_S, "options": "-c timezone=UTC"}
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=given)
    with engine.connect().execution_options(**options) as connection:
        yield connection


@contextmanager
def _translate_errors(source: Source, query: Query, url: "URL") -> Iterator[None]:
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

    def error_text(error: Exception) -> str:
        text = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
        return text.replace(str(url.password), "***") if url.password else text

    try:
        yield
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise UnavailableError(
            f"The database {query.database!r} of source {source.name!r} needs a driver for {url.drivername}.",
            remedy="Install forecache[sql] for PostgreSQL, or SQLAlchemy's driver for another database.",
        ) from error
    except DBAPIError as error:
        if isinstance(error, OperationalError) or error.connection_invalidated:
            raise UnavailableError(
                f"The database {query.database!r} of source {source.name!r} does not answer: {error_text(error)}.",
                remedy="Check that it runs, and its URL in FORECACHE_DATABASES.",
            ) from None
        raise InputError(
            f"The database {query.database!r} refuses the query of source {source.name!r}: {error_text(error)}.",
            remedy="Correct the query, or grant what it needs.",
        ) from None
    except SQLAlchemyError as error:
        raise InputError(
            f"The query of source {source.name!r} fails: {error_text(error)}.", remedy="Correct the query."
        ) from None


def _statement(source: Source, query: Query, names: Sequence[str]) -> Any:
    from sqlalchemy import bindparam, column, select, table, text

    if query.sql:
        return text(query.sql)
    schema, _, name = query.table.rpartition(".")
    chosen: Any = select(*(column(each) for each in names)).select_from(table(name, schema=schema or None))
    if not source.event_time:
        return chosen
    at: Any = column(source.event_time)
    return chosen.where(at >= bindparam("start"), at < bindparam("end"))


def _bounds(day: date, url: "URL") -> dict[str, datetime]:
    """Start of a day and of the next one; without a time zone for databases that do not support them."""
    zone = timezone.utc if url.get_backend_name() == "postgresql" else None
    start = datetime.combine(day, time(), zone)
    return {"start": start, "end": start + timedelta(days=1)}


def _to_text(value: Any) -> str | None:
    """A value as text, as in any landing file; ingestion judges the types."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return (value.astimezone(timezone.utc) if value.tzinfo else value).isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=str)
    return repr(value) if isinstance(value, float) else str(value)
