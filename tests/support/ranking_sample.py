"""Made-up requests with offers, of which some were taken."""

from datetime import date

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from ranked_project.pipelines.offers import offers

from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.inference.encoding import encoding_of
from forecache.models.registry.gate.examples import SplitExamples

DAYS = {"train": date(2024, 4, 1), "validation": date(2024, 4, 20), "test": date(2024, 4, 30)}


def requests(num: int, seed: int = 5) -> SplitExamples:
    """Requests of 2 to 20 offers; the better the taste and the popularity together, the likelier one is taken."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 21, num)
    features = rng.normal(size=(int(sizes.sum()), 3)).astype(np.float32)
    chance = 1 / (1 + np.exp(2.5 - 2 * features[:, 0] - features[:, 1]))
    label = (rng.random(len(features)) < chance).astype(np.float64)
    days = (DAYS["test"],) * len(features)
    return SplitExamples(features, label, days, encoding_of(offers.feature_columns, {}), sizes=sizes.astype(np.int64))


def write_requests(settings: Settings, pipeline: Trainable, num: int = 1500, *, files: int = 3) -> int:
    """Write a training set of so many requests, half of them to train on, each whole in a file; its Delta version."""
    examples = requests(num)
    assert examples.sizes is not None
    number = np.repeat(np.arange(num), examples.sizes)
    split = np.array(["train", "validation", "train", "test"])[number % 4]
    rows = pa.table(
        {
            "request_id": [f"r{i:06d}" for i in number],
            "position": pa.array(np.concatenate([np.arange(size) for size in examples.sizes]), pa.int32()),
            "as_of": pa.array([DAYS[name] for name in split], pa.date32()),
            "split": split.tolist(),
            **{name: examples.features[:, i] for i, name in enumerate(pipeline.feature_names)},
            "taken": examples.label,
            **({"worth": 1.0 + number % 3} if pipeline.trained_label.weight else {}),
        }
    )
    uri = settings.table_uri(pipeline.training_table)
    for part in range(files):
        write_deltalake(uri, rows.filter(pa.array(number % files == part)), mode="append" if part else "overwrite")
    return DeltaTable(uri).version()
