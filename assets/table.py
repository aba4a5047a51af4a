"""An existing table, which others write: this project reads it where it lies, at a version that each run pins."""

import dagster as dg

from assets.metadata import declared_columns, owners_of
from forecache.pipeline import AnySource, TableSource


def build_table(source: TableSource) -> dg.AssetSpec:
    """An asset that this project only reads."""
    return dg.AssetSpec(
        source.asset_name,
        description=f"{source.description}\n\n{__doc__}",
        group_name="tables",
        kinds={"deltalake" if source.format == "delta" else "parquet"},
        owners=owners_of(source),
        metadata={"dagster/uri": source.uri, "dagster/column_schema": dg.TableSchema(declared_columns(source))},
    )


def source_asset(source: AnySource) -> str:
    """The asset that the stages depend on which read a source."""
    return source.asset_name if isinstance(source, TableSource) else source.raw_table
