"""Writing the lists of an as-of date as one partition of the prediction table."""

from collections.abc import Iterator
from datetime import date, datetime, timezone

import pyarrow as pa

from forecache.lake.delta.commit import Target
from forecache.lake.delta.files import new_path, place_of, write_file
from forecache.lake.delta.partitions import Seen, replace_partitions
from forecache.lake.delta.writers import new_folder
from forecache.lake.provenance import PROVENANCE_FIELDS
from forecache.pipeline import AS_OF, Recommender
from forecache.pipeline.recommenders.similar import SimilarItems
from forecache.recommend.lists import Lists
from forecache.recommend.similar import ItemLists
from forecache.results import Progress, no_progress
from forecache.settings import Settings

_ROWS_AT_ONCE = 8192


def write_lists(
    settings: Settings,
    served: Recommender | SimilarItems,
    lists: Lists | ItemLists,
    night: date,
    *,
    source_version: int,
    seen: Seen,
    inputs: str,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Write lists, which are made while they are written, and let the partition consist of them; its Delta version.

    Args:
        source_version: Delta version of the interactions.
        seen: The table as it was before the work.
        inputs: What decides the lists; another run's from the same inputs are taken over.

    Raises:
        ConflictError: Another run wrote the date from other inputs meanwhile.
    """
    from deltalake import Schema

    table = served.prediction_table
    schema = table_schema(served, lists)
    stamp = {
        "model_name": (served.recommender if isinstance(served, SimilarItems) else served).name,
        "model_version": int(f"{night:%Y%m%d}"),
        "feature_version": source_version,
        "scored_at": datetime.now(timezone.utc),
        "run_id": run_id,
    }

    def rows() -> Iterator[pa.Table]:
        done = 0
        for keys, items in lists.parts(_ROWS_AT_ONCE):
            done += len(keys)
            progress(f"lists of {done:,} {served.key[0]}s", 0.5 + 0.5 * done / len(lists.keys))
            same = [pa.repeat(pa.scalar(value, schema.field(name).type), len(keys)) for name, value in stamp.items()]
            names = [*served.key, *served.output_columns, *stamp]
            yield pa.Table.from_arrays([keys, items, *same], names=names)

    path = new_path(new_folder(), {AS_OF: night})
    stored = schema.remove(schema.get_field_index(AS_OF))
    file = write_file(place_of(settings, table).open(), path, stored, rows())
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


def table_schema(served: Recommender | SimilarItems, lists: Lists | ItemLists) -> pa.Schema:
    """Columns of the prediction table; keys of users and items have the types that they have in the interactions."""
    item = pa.struct([("item", lists.fitted.item_keys.type), ("score", pa.float32()), ("reason", pa.string())])
    return pa.schema(
        [
            (served.key[0], lists.keys.type),
            (AS_OF, pa.date32()),
            (served.output_columns[0], pa.list_(pa.field("element", item))),
            *PROVENANCE_FIELDS,
        ]
    )
