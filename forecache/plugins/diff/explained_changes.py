"""The largest changes of a pipeline's first number, each with what every feature adds to it before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.table_names import AS_OF
from forecache.declare import Pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import all_records
from forecache.plugins.diff.compare_partitions import ColumnDiff, PartitionDiff
from forecache.plugins.diff.compared_tables import Side
from forecache.plugins.diff.joined_changes import Mover
from forecache.scoring.night_inputs import STAGE as SCORE

EXPLAINED = 3
_MOST_FEATURES = 8


def explain_changes(
    before: Side, after: Side, pipeline: Pipeline, rows: PartitionDiff, versions: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """The keys of the first output that moved most, each as JSON values; `versions` are those of the prediction table.

    Each has `key`, `output`, `before`, `after`, `missing` (the reason for no contributions, or "") and `features`:
    name, value and contribution on each side, the largest difference of contributions first. A contribution is against
    the rows of that side, so that the base may differ, too: `base_before` and `base_after`.
    """
    column = next((each for each in rows.columns if each.name in pipeline.output_specs[0].columns), None)
    if column is None or not column.movers or column.kind != "number":
        return []
    movers = column.movers[:EXPLAINED]
    if not is_installed("explain"):
        return []
    sides = [
        _explain_side(side, pipeline, movers, version)
        for side, version in zip((before, after), versions or (None, None), strict=True)
    ]
    return [_join(column, mover, *(side[mover.key] for side in sides)) for mover in movers]


def _explain_side(
    side: Side, pipeline: Pipeline, movers: Sequence[Mover], version: int | None
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """By key the contributions on one side, or `missing`."""
    explain = load_hook("explain", "explain_prediction")
    wanted = [mover.key for mover in movers]
    assert side.night is not None
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        scored = _rows_of(side, pipeline.prediction_table, version, pipeline.key, wanted)
        records = [
            record
            for record in all_records(side.settings, SCORE, pipeline.name)
            if record.as_of == side.night and (version is None or record.delta_version <= version)
        ]
        table = records[-1].details["feature_table"] if records else pipeline.feature_table
        for key in wanted:
            model_version, table_version = scored[key]["model_version"], scored[key]["feature_version"]
            features = _rows_of(side, table, table_version, pipeline.key, [key])[key]
            found[key] = explain(side.settings, pipeline, model_version, table, table_version, side.night, features)
    except ForecacheError as error:
        return {key: found.get(key, {"missing": str(error)}) for key in wanted}
    except KeyError as error:
        return {key: found.get(key, {"missing": f"{side.name} has no {error}"}) for key in wanted}
    return found


def _rows_of(
    side: Side, table: str, version: int | None, key: Sequence[str], wanted: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of some keys, given as texts, of the side's date."""
    import pyarrow as pa
    import pyarrow.compute as pc

    assert side.night is not None
    dataset = open_dataset(
        open_table(side.settings, table, version=version), partitions=[(AS_OF, "=", side.night.isoformat())]
    )
    chosen = pc.field(AS_OF) == pa.scalar(side.night)
    for place, name in enumerate(key):
        kind = dataset.schema.field(name).type
        values = pa.array(sorted({each[place] for each in wanted}), pa.string()).cast(kind)
        chosen = chosen & pc.field(name).isin(values)
    rows = dataset.to_table(filter=chosen).to_pylist()
    return {tuple(str(row[name]) for name in key): row for row in rows}


def _join(column: ColumnDiff, mover: Mover, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    named = {"before": before, "after": after}
    missing = [f"{name}: {each['missing']}" for name, each in named.items() if "missing" in each]
    sides = [{each["name"]: each for each in side.get("features", ())} for side in (before, after)]
    features = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        old, new = (side.get(name, {}) for side in sides)
        features.append(
            {
                "name": name,
                "value_before": old.get("value"),
                "value_after": new.get("value"),
                "adds_before": old.get("contribution"),
                "adds_after": new.get("contribution"),
            }
        )
    features.sort(key=lambda each: (-abs((each["adds_after"] or 0.0) - (each["adds_before"] or 0.0)), each["name"]))
    return {
        "key": "|".join(mover.key),
        "output": column.name,
        "before": mover.before,
        "after": mover.after,
        "base_before": before.get("base"),
        "base_after": after.get("base"),
        "missing": "; ".join(missing),
        "features": [] if missing else features[:_MOST_FEATURES],
    }
