"""Landing zone: the files of a source as they arrive, one or more a day. Whoever sends them owns them."""

import dagster as dg

from assets.metadata import source_schema
from forecache.pipeline import Source


def build_landing(source: Source) -> dg.AssetSpec:
    """An asset that this project only watches; the ingest sensor reports the files that it sees."""
    return dg.AssetSpec(
        f"landing_{source.name}",
        description=f"{source.description}\n\n{__doc__}",
        group_name="landing",
        kinds={"csv", "json", "parquet"},
        owners=[source.owner],
        metadata={"file_pattern": source.file_pattern, "dagster/column_schema": source_schema(source)},
    )
