"""The rows of section once against features and scores that other code than the stream's makes of what was sent."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from _stream.plain_windows import FEATURES, Payments, features
from _stream.same_features import compared, matrix_of
from _stream.traffic import Traffic
from forecache.base.settings import Settings

COLUMNS = ["transaction_id", "position", "place", "score", "features"]


def computed_again(settings: Settings, traffic: Traffic, rows: pa.Table) -> dict[str, Any]:
    """Features by plain counting, in the order in which the table has the payments, and scores by the network alone.

    Args:
        rows: Of the stream's table, with `COLUMNS`.

    Returns:
        As `compared`, and `scores_differ`: those in which some bit does.
    """
    rows = first_rows(rows, traffic)
    ids = rows["transaction_id"].to_numpy()
    sent = Payments(traffic.customer_of(ids), traffic.terminal_of(ids), traffic.due_us(ids), traffic.amount_of(ids))
    expected = features(landed(settings), sent)
    found = compared(FEATURES, (ids, matrix_of(rows["features"], len(FEATURES))), (ids, expected))
    scores = rows["score"].to_numpy()
    return {**found, "scores_differ": int((scores.view(np.int64) != network_scores(expected).view(np.int64)).sum())}


def first_rows(rows: pa.Table, traffic: Traffic) -> pa.Table:
    """Of each payment that was sent its first row, in the order of the stream."""
    rows = rows.sort_by([("position", "ascending"), ("place", "ascending")])
    ids, first = np.unique(rows["transaction_id"].to_numpy(), return_index=True)
    sent = (ids >= traffic.first) & (ids < traffic.first + traffic.count)
    return rows.take(pa.array(np.sort(first[sent])))


def landed(settings: Settings) -> Payments:
    """The payments of the landing files."""
    parts = [csv.read_csv(file) for file in sorted(Path(settings.landing_uri, "payments").glob("*.csv"))]
    rows = pa.concat_tables([part.select(["customer_id", "terminal_id", "at", "amount"]) for part in parts])
    at_us = rows["at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    amount = rows["amount"].to_numpy().astype(np.int64)
    return Payments(rows["customer_id"].to_numpy(), rows["terminal_id"].to_numpy(), at_us, amount)


def network_scores(matrix: np.ndarray) -> np.ndarray:
    """The score of each row by the network that `prepare.register` registers, one row a call, float64 [n]."""
    import onnxruntime
    from _realtime import case

    graph = case.network(np.random.default_rng(0), matrix.shape[1])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = [session.run(None, {"features": matrix[n : n + 1]})[0].item() for n in range(len(matrix))]
    return np.array(scores, np.float64)
