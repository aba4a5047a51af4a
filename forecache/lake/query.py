"""SQL over the lake's tables by name: DuckDB over delta-rs, without a JVM and without access to files or network.

Also DuckDB for the framework's own work, with bounded memory.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError
from forecache.base.files import process_folder
from forecache.base.settings import Settings
from forecache.base.table_names import known_names_remedy
from forecache.kit.delta.damage import as_damaged_error
from forecache.kit.delta.renamed_columns import open_rows
from forecache.kit.delta.tables import table_names

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# MULTI: DuckDB itself refuses several statements with a clear message.
_READING = {"SELECT", "EXPLAIN", "PRAGMA", "CALL", "MULTI"}
_NO_TABLE = re.compile(r"Table with name (.+?) does not exist")


def query(settings: Settings, sql: str) -> "pa.Table":
    """Run one statement, in which every table of the lake has its name, at its newest version.

    Data that do not fit memory are spilled into the system's temporary folder.

    Raises:
        InputError: The statement is wrong, does more than read, or names something that is not a table of the lake.
        DamagedError: A data file of a table is missing or damaged.
    """
    import duckdb

    tables = table_names(settings)
    with (
        process_folder(Path(tempfile.gettempdir()), "forecache-query-") as folder,
        duckdb.connect(":memory:", config={"temp_directory": str(folder)}) as connection,
    ):
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        try:
            _require_read_only(connection.extract_statements(sql))
            for name in connection.get_table_names(sql) & set(tables):
                connection.register(name, open_rows(settings, name))
            return connection.sql(sql).to_arrow_table()
        except duckdb.CatalogException as error:
            raise _unknown_name_error(error, tables) from None
        except duckdb.Error as error:
            if (damaged := as_damaged_error(error)) is not None:
                raise damaged from None
            raise InputError(f"The query failed: {first_line(error)}.", remedy="Change the statement.") from None


def _require_read_only(statements: "Sequence[duckdb.Statement]") -> None:
    for statement in statements:
        if statement.type.name not in _READING:
            raise InputError(
                f"A query only reads the lake's tables, and the statement is {statement.type.name}.",
                remedy="Ask with SELECT. The runs of a pipeline write its tables; to change one by hand use delta-rs.",
            )


def _unknown_name_error(error: "duckdb.CatalogException", tables: Sequence[str]) -> InputError:
    """The error for an unknown name; for a table it proposes names of the lake instead of DuckDB's own tables."""
    missing = _NO_TABLE.search(str(error))
    if missing is None:
        return InputError(f"The query failed: {first_line(error)}.", remedy="Change the statement.")
    name = missing[1].strip('"')
    return InputError(f"The lake has no table {name!r}.", remedy=known_names_remedy(name, tables, where="the lake"))


def first_line(error: Exception) -> str:
    """DuckDB's message with the names that it proposes, without the statement that it repeats."""
    lines = [line.strip() for line in str(error).splitlines()]
    proposed = [line for line in lines[1:] if line.startswith(("Candidate", "Did you mean"))]
    return ". ".join(line.rstrip(".!") for line in [*lines[:1], *proposed])


def quote_name(name: str) -> str:
    """A column's name as SQL takes it, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def scratch_folder(settings: Settings) -> Path:
    folder = settings.home_path / "scoring"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def scratch_database(settings: Settings) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into a folder of its own in the scratch folder."""
    with bounded_database(scratch_folder(settings)) as connection:
        yield connection


@contextmanager
def bounded_database(parent: Path) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into a folder of its own in a folder.

    DuckDB before 2.0 gives its files the same names in every process, and two that share a folder crash.
    """
    import duckdb

    with process_folder(parent, "duckdb-") as folder:
        config: dict[str, Any] = {"memory_limit": "512MB", "temp_directory": str(folder)}
        with duckdb.connect(":memory:", config=config) as connection:
            yield connection
