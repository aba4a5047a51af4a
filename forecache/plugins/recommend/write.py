"""Writing the lists, or the vectors, of an as-of date as one partition of a prediction table."""

from collections.abc import Iterator
from datetime import date, datetime, timezone

import pyarrow as pa

from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Recommender
from forecache.declare.recommenders.second_tables import SimilarItems, Vectors
from forecache.kit.delta.commit import Target
from forecache.kit.delta.files import new_path, place_of, write_file
from forecache.kit.delta.partitions import TableSnapshot, replace_partitions
from forecache.kit.delta.writers import new_folder
from forecache.lake.provenance import PROVENANCE_FIELDS
from forecache.plugins.recommend.lists import Lists
from forecache.plugins.recommend.similar import ItemLists
from forecache.plugins.recommend.vectors import VectorRows

_ROWS_AT_ONCE = 8192

Rows = Lists | ItemLists | VectorRows


def write_lists(
    settings: Settings,
    served: Recommender | SimilarItems | Vectors,
    rows: Rows,
    night: date,
    *,
    source_version: int,
    seen: TableSnapshot,
    inputs: str,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Replace the partition of an as-of date by rows, which are made while they are written.

    Args:
        source_version: Delta version of the interactions.
        seen: State of the table before the work.
        inputs: Text that identifies everything the lists depend on; lists that another run committed meanwhile from the
            same inputs are taken over.

    Returns:
        The table's Delta version.

    Raises:
        ConflictError: Another run wrote the date from other inputs meanwhile.
    """
    from deltalake import Schema

    table = served.prediction_table
    schema = table_schema(served, rows)
    stamp = {
        "model_name": (served if isinstance(served, Recommender) else served.recommender).name,
        "model_version": int(f"{night:%Y%m%d}"),
        "feature_version": source_version,
        "scored_at": datetime.now(timezone.utc),
        "run_id": run_id,
    }

    what = served.output_columns[0] if isinstance(served, Vectors) else "list"

    def tables() -> Iterator[pa.Table]:
        done = 0
        for keys, values in rows.parts(_ROWS_AT_ONCE):
            done += len(keys)
            progress(f"{what}s of {done:,} {served.key[0]}s", 0.5 + 0.5 * done / len(rows.keys))
            same = [pa.repeat(pa.scalar(value, schema.field(name).type), len(keys)) for name, value in stamp.items()]
            names = [*served.key, *served.output_columns, *stamp]
            yield pa.Table.from_arrays([keys, values, *same], names=names)

    path = new_path(new_folder(), {AS_OF: night})
    stored = schema.remove(schema.get_field_index(AS_OF))
    file = write_file(place_of(settings, table).open(), path, stored, tables())
    committed = replace_partitions(
        Target(settings, table, Schema.from_arrow(schema), (AS_OF,), change_feed=True),
        [file],
        column=AS_OF,
        values=[night],
        seen=seen,
        inputs={night: inputs},
        note={"forecache": f"recommend {served.name} {night}", "run_id": run_id},
    )
    return committed.versions[night]


def table_schema(served: Recommender | SimilarItems | Vectors, rows: Rows) -> pa.Schema:
    """Columns of the prediction table; keys of users and items have the types that they have in the interactions."""
    return pa.schema(
        [
            (served.key[0], rows.keys.type),
            (AS_OF, pa.date32()),
            (served.output_columns[0], rows.value_type),
            *PROVENANCE_FIELDS,
        ]
    )
