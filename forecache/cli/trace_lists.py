"""The chain from a served list to the interactions, the model and the runs that it comes from."""

from datetime import date, timedelta
from typing import Any

from forecache.cli.trace import answer_links, answered, events_of, recorded, row_of
from forecache.lake.ledger import last_record
from forecache.pipeline import Recommender
from forecache.pipeline.recommenders.second_table import SecondTable
from forecache.settings import Settings


def trace_list(
    current: Settings, served: Recommender | SecondTable, key: str, *, version: int | None = None
) -> dict[str, Any]:
    """The chain from a recommender's list or vector to its sources, one entry per link.

    Returns:
        `answer`, `store`, `prediction`, `interactions` (of the user, or of the item) and `model`: the declared
        model and the gate's figures. A link whose Delta version was vacuumed has `missing` with the reason.

    Raises:
        NotFoundError: Nothing is published, or the version does not have the key.
    """
    recommender = served.recommender if isinstance(served, SecondTable) else served
    found = answered(served.name, key, version)
    manifest, where = found.manifest, found.where
    night = date.fromisoformat(manifest.as_of)
    prediction = row_of(current, manifest.source.table, manifest.source.delta_version, where, night)
    made_from = prediction.get("row", {}).get("feature_version", manifest.provenance.feature_version)
    interactions = events_of(current, recommender.source.raw_table, made_from, where, night)
    if recommender.history_days is not None:
        interactions["since"] = (night - timedelta(days=recommender.history_days - 1)).isoformat()
    record = last_record(current, "recommend", recommender.name, night)
    # The record is of the latest run of the date, whose result may not be the served one.
    is_same = record is not None and record.details.get("source_version") == made_from
    return {
        **answer_links(current, found),
        "prediction": prediction | recorded(current, "recommend", recommender.name, night),
        "interactions": interactions,
        "model": {
            "name": manifest.provenance.model_name,
            "version": manifest.provenance.model_version,
            "declared": repr(recommender.model),
            **({"gate": dict(record.details)} if record is not None and is_same else {}),
            **({} if is_same else {"missing": f"the figures of its gate: {night} was done again since"}),
        },
    }
