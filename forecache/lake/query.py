"""SQL over the lake's tables by name: DuckDB over delta-rs, without a JVM, a network or a file in the statement."""

from typing import TYPE_CHECKING

from forecache.errors import InputError
from forecache.lake.delta.listing import table_names
from forecache.lake.delta.tables import open_table
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def query(settings: Settings, sql: str) -> "pa.Table":
    """Run one statement; every table of the lake is there under its name, at its newest version.

    Raises:
        InputError: The statement is wrong or names something that is not a table of the lake.
    """
    import duckdb

    known = table_names(settings)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        try:
            for name in connection.get_table_names(sql) & set(known):
                connection.register(name, open_table(settings, name).to_pyarrow_dataset())
            return connection.sql(sql).to_arrow_table()
        except duckdb.CatalogException as error:
            raise InputError(
                f"The query failed: {_first_line(error)}.",
                remedy=f"Tables: {', '.join(known) or 'none yet'}.",
            ) from None
        except duckdb.Error as error:
            raise InputError(f"The query failed: {_first_line(error)}.", remedy="Change the statement.") from None


def _first_line(error: Exception) -> str:
    """What DuckDB says, with the names that it proposes, and without the statement that it repeats."""
    lines = [line.strip() for line in str(error).splitlines()]
    proposed = [line for line in lines[1:] if line.startswith(("Candidate", "Did you mean"))]
    return ". ".join(line.rstrip(".!") for line in [*lines[:1], *proposed])
