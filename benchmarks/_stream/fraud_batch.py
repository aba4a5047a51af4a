"""Writes the batch's features of the judged week, those of the training set of a later night, and their scores.

Usage: python -m _stream.fraud_batch NIGHT FILE, in the environment of the home
"""

import sys
from datetime import date

from cards.pipelines.card_fraud import card_fraud

from forecache.base.settings import load_settings
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.kit.spark.session import spark_session, stop_spark
from forecache.kit.versioned.pointer import read_pointer
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.historical_features.training_set import build_examples
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release


def main() -> None:
    settings, night = load_settings(), date.fromisoformat(sys.argv[1])
    spark_session(settings)
    try:
        for source in card_fraud.all_sources:
            ingest(settings, source)
        build_examples(settings, card_fraud, night)
    finally:
        stop_spark()
    columns = ["request_id", *card_fraud.feature_names]
    dataset = open_dataset(open_table(settings, card_fraud.training_table))
    import pyarrow.dataset as ds

    rows = dataset.to_table(columns=columns, filter=ds.field("split") == "test")
    import numpy as np

    matrix = np.column_stack([rows[name].to_numpy() for name in card_fraud.feature_names]).astype(np.float32)
    folder = open_releases(settings, card_fraud.name)
    current = read_pointer(folder).current
    assert current is not None
    release = load_release(folder, current)
    scores = release.scores_of(np.ascontiguousarray(matrix)).astype(float)
    ids = np.array([int(each) for each in rows["request_id"].to_pylist()], np.int64)
    np.savez(sys.argv[2], ids=ids, scores=scores, features=matrix, names=card_fraud.feature_names)


if __name__ == "__main__":
    main()
