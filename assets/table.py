"""An existing table, which others write: this project reads it in place, at a version that each run pins."""

import dagster as dg

from assets.metadata import declared_columns, owners_of
from forecache.declare import AnySource, TableSource


def build_table(source: TableSource) -> dg.AssetSpec:
    """An external asset for an existing table."""
    return dg.AssetSpec(
        source.asset_name,
        description=f"{source.description}\n\n{__doc__}",
        group_name="tables",
        kinds={"deltalake" if source.format == "delta" else "parquet"},
        owners=owners_of(source),
        metadata={"dagster/uri": source.uri, "dagster/column_schema": dg.TableSchema(declared_columns(source))},
    )


def source_asset(source: AnySource) -> str:
    """Name of the asset that stages which read a source depend on."""
    return source.asset_name if isinstance(source, TableSource) else source.raw_table
