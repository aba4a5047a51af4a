"""Assets that data come from: landing files, and existing tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import declared_columns, place_in_graph, source_schema
from forecache.base.table_names import STREAM
from forecache.declare import AnySource, Source, StreamDay, TableSource
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from forecache.lake.ingest.landing import LandingFile


_LANDING = (
    """Landing zone: the files of a source as they arrive, one or more a day. They belong to whoever sends them."""
)
NAMES_MATCH = "names_match"
_MAX_NAMES = 20


def landing_name(source: Source) -> str:
    return f"landing_{source.name}"


def build_landing(source: Source) -> dg.AssetSpec:
    """An external asset; the ingest sensor reports the files that it finds."""
    return dg.AssetSpec(
        landing_name(source),
        description=f"{source.description}\n\n{_LANDING}",
        deps=[STREAM + source.extract.stream] if isinstance(source.extract, StreamDay) else [],
        **place_in_graph(source, stage="landing"),
        kinds={"csv", "json", "parquet"},
        metadata={"file_pattern": source.file_pattern, "dagster/column_schema": source_schema(source)},
    )


def build_landing_check(source: Source) -> dg.AssetChecksDefinition:
    """The check that every file name has a day of the source; the sensor and `forecache run` also evaluate it."""

    @dg.asset_check(
        asset=landing_name(source),
        name=NAMES_MATCH,
        description=f"Every file's name has a day of the source as in {source.file_pattern}; others are in quarantine.",
    )
    def names_match(settings: SettingsResource) -> dg.AssetCheckResult:
        from forecache.lake.ingest.landing import list_landing

        passed, reason = _names_verdict(source, list_landing(settings.load(), source))
        return dg.AssetCheckResult(passed=passed, description=reason, severity=dg.AssetCheckSeverity.WARN)

    return names_match


def landing_events(
    source: Source, files: Sequence["LandingFile"]
) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Events for the present files of the landing zone: the landing asset's materialization, and its check."""
    days = sorted(file.day for file in files if file.day)
    seen = dg.AssetMaterialization(
        landing_name(source),
        metadata={
            "files": len(files),
            "size_bytes": sum(file.size_bytes for file in files),
            "first_day": str(days[0]) if days else "none",
            "last_day": str(days[-1]) if days else "none",
        },
    )
    passed, reason = _names_verdict(source, files)
    names = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(landing_name(source)),
        check_name=NAMES_MATCH,
        passed=passed,
        metadata={},
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
    )
    return [seen, names]


def _names_verdict(source: Source, files: Sequence["LandingFile"]) -> tuple[bool, str]:
    others = [file.name for file in files if file.day is None]
    if not others:
        return True, f"All {len(files):,} files have a day of the source in their names."
    shown = ", ".join(others[:_MAX_NAMES]) + (", ..." if len(others) > _MAX_NAMES else "")
    return False, f"{len(others):,} of {len(files):,} files match no day of {source.file_pattern}: {shown}."


_TABLE = """An existing table, which others write: this project reads it in place, at a version that each run pins."""


def build_table(source: TableSource) -> dg.AssetSpec:
    """An external asset for an existing table."""
    return dg.AssetSpec(
        source.asset_name,
        description=f"{source.description}\n\n{_TABLE}",
        **place_in_graph(source, stage="tables"),
        kinds={"deltalake" if source.format == "delta" else "parquet"},
        metadata={"dagster/uri": source.uri, "dagster/column_schema": dg.TableSchema(declared_columns(source))},
    )


def source_asset(source: AnySource) -> str:
    """Name of the asset that stages which read a source depend on."""
    return source.asset_name if isinstance(source, TableSource) else source.raw_table
