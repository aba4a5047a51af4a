"""Outcomes of requests, from the table that an `Outcome` names."""

import numpy as np

from forecache.lake.delta.dataset import open_dataset
from forecache.lake.delta.existing import open_existing
from forecache.pipeline.realtime.rollout import Outcome
from forecache.settings import Settings


def outcomes(settings: Settings, outcome: Outcome, request_ids: np.ndarray) -> np.ndarray:
    """The outcome of each request, float64 [n] from 0 to `outcome.most`: the sum of its rows, 0 without any.

    Raises:
        NotFoundError: There is no such table.
        UnavailableError: It does not open.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = open_existing(settings, outcome.table, what="The table of outcomes")
    ids = pa.array(request_ids.tolist(), pa.string())
    condition = pc.is_in(pc.field(outcome.by), value_set=ids)
    rows = open_dataset(table).to_table([outcome.by, outcome.value], filter=condition)
    sums = pa.table({"id": rows.column(outcome.by), "value": rows.column(outcome.value).cast(pa.float64())})
    known = sums.group_by("id").aggregate([("value", "sum")])
    by_id = dict(zip(known.column("id").to_pylist(), known.column("value_sum").to_pylist(), strict=True))
    found = np.array([by_id.get(each) or 0.0 for each in request_ids.tolist()], np.float64)
    return np.clip(found, 0.0, outcome.most)
