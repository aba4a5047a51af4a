"""The test rows that two models have in common, each with the features of its own training."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecache.base.ranking import sizes_of
from forecache.base.settings import Settings
from forecache.base.table_names import AS_OF
from forecache.declare import Trainable
from forecache.kit.delta.damage import as_damaged_error
from forecache.kit.delta.errors import translate_errors
from forecache.models.registry.gate.examples import (
    CandidateModel,
    SplitExamples,
    open_judged_model,
    score_features,
)
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.model_versions import ModelVersion


@dataclass(frozen=True)
class OwnTestRows:
    """Rows of the test split of a model's own training table, and the model."""

    keys: NDArray[Any]  # texts of key and as-of date [n]
    units: NDArray[Any]  # texts of the request of each row [n]; without requests the keys
    examples: SplitExamples
    model: CandidateModel

    @classmethod
    def read(cls, settings: Settings, pipeline: Trainable, version: ModelVersion) -> "OwnTestRows":
        """All rows; raises what `open_judged_model` does, and DamagedError without a file of the table."""
        with translate_errors(as_damaged_error):
            model, examples = open_judged_model(settings, pipeline, version, version.training_table)
        return cls.from_examples(settings, pipeline, version, model, examples)

    @classmethod
    def from_examples(
        cls,
        settings: Settings,
        pipeline: Trainable,
        version: ModelVersion,
        model: CandidateModel,
        examples: SplitExamples,
    ) -> "OwnTestRows":
        """The rows that `open_judged_model` has read of the version's own training table."""
        with translate_errors(as_damaged_error):
            keys, units = _read_names(settings, pipeline, *version.training_table)
        return cls(keys, units, examples, model)

    def select(self, mask: NDArray[np.bool_]) -> "OwnTestRows":
        """The rows of a mask, which has all rows of a request or none, in the order of their keys."""
        chosen, order = self.examples.select(mask), np.argsort(self.keys[mask], kind="stable")
        keys, units = self.keys[mask][order], self.units[mask][order]
        ordered = replace(
            chosen,
            features=chosen.features[order],
            label=chosen.label[order],
            as_of=tuple(chosen.as_of[place] for place in order),
            weight=None if chosen.weight is None else chosen.weight[order],
            sizes=None if chosen.sizes is None else sizes_of(units),
        )
        return OwnTestRows(keys, units, ordered, self.model)

    def scores(self, classes: tuple[str, ...]) -> Array:
        return score_features(self.model, self.examples.features, classes, self.examples.sizes)


class CommonRows(NamedTuple):
    """The same test rows of two models, in the same order; `num_test_rows` is the number of all of the second model."""

    before: OwnTestRows
    after: OwnTestRows
    num_rows: int
    num_test_rows: int


def find_common_rows(before: OwnTestRows, after: OwnTestRows) -> CommonRows:
    """The rows that both models have; of requests, those with the same rows."""
    sides = (before, after)
    others = (~np.isin(before.keys, after.keys), ~np.isin(after.keys, before.keys))
    parts = np.concatenate([side.units[rows] for side, rows in zip(sides, others, strict=True)])
    old, new = (side.select(~np.isin(side.units, parts)) for side in sides)
    return CommonRows(old, new, len(new.keys), len(after.keys))


def _read_names(settings: Settings, pipeline: Trainable, table: str, version: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Key and as-of date of each row of a test split as one text, and its request, in the order of `read_examples`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.tables import open_table

    columns = [*pipeline.key, AS_OF]
    rows = open_dataset(open_table(settings, table, version=version)).to_table(
        columns, filter=pc.field("split") == "test"
    )
    rows = rows.sort_by([(name, "ascending") for name in columns])
    texts = {name: rows.column(name).cast(pa.string()) for name in columns}
    keys: NDArray[Any] = pc.binary_join_element_wise(*texts.values(), "\x1f").to_numpy().astype(str)
    return keys, texts[pipeline.group_column].to_numpy().astype(str) if pipeline.group_column else keys
