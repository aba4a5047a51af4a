"""The champions of two environments: which they are, their gate, and the metrics of both on the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import ForecacheError
from forecache.base.ranking import sizes_of
from forecache.base.settings import Settings
from forecache.base.table_names import AS_OF
from forecache.declare import Trainable
from forecache.models.registry.gate.examples import SplitExamples, open_model, read_examples, score_features
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.model_versions import ModelVersion, find_champion, judged_folder, list_models


@dataclass(frozen=True)
class ModelDiff:
    """The champions of both sides.

    Attributes:
        before, after: Their version, gate and MLflow run; None without one.
        metrics: By name, of the champion before and after, on the rows that the test splits of both have in common.
        rows: Number of these rows.
        less_is_better: Metrics of which less is better.
        missing: The reason why there are no metrics on the same rows; "": there are some, or the models are the same.
        failed_gate: A sentence on a version that is only in the second environment and failed its gate; "": none.
    """

    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    differ: bool
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0
    less_is_better: tuple[str, ...] = ()
    decided_by: str = ""
    missing: str = ""
    failed_gate: str = ""


def compare_models(before: Settings, after: Settings, pipeline: Trainable) -> ModelDiff:
    """Compare the champions of a pipeline or real-time model, by its declaration in the working tree."""
    old, new = find_champion(before, pipeline), find_champion(after, pipeline)
    made = ModelDiff(_describe(old), _describe(new), True, failed_gate=_failed_gate(before, after, pipeline))
    if old is None or new is None or (old.run_id, old.weights) == (new.run_id, new.weights):
        return replace(made, differ=(old is None) != (new is None))
    try:
        metrics, rows = _measure_both(before, after, pipeline, old, new)
    except ForecacheError as error:
        return replace(made, missing=str(error))
    judge = judge_of(pipeline)
    return replace(
        made, metrics=metrics, rows=rows, less_is_better=tuple(sorted(judge.less_is_better)),
        decided_by=pipeline.trained_gate.metric,
        missing="" if metrics else "the test splits of both have no row of the same key and as-of date",
    )  # fmt: skip


def _describe(version: ModelVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"version": version.version, "gate": version.gate, "run_id": version.run_id, "weights": version.weights}


def _failed_gate(before: Settings, after: Settings, pipeline: Trainable) -> str:
    """A sentence on the newest version of the second environment that is not in the first, if its gate refused it."""
    known = {(each.version, each.run_id) for each in list_models(before, pipeline)}
    own = [each for each in list_models(after, pipeline) if (each.version, each.run_id) not in known]
    newest = max(own, key=lambda each: each.version, default=None)
    if newest is None or newest.gate != "failed":
        return ""
    reason = newest.tags.get("gate_reason", "")
    return f"Model {pipeline.name} {newest.version} failed the gate" + (f": {reason}" if reason else "")


def _measure_both(
    before: Settings, after: Settings, pipeline: Trainable, old: ModelVersion, new: ModelVersion
) -> tuple[dict[str, tuple[float, float]], int]:
    """The metrics of both models on the rows that their test splits have in common, and the number of these.

    Each model gets the features of its own training table; the labels are those of the newer one. Of a real-time model
    only the requests count of which both have the same rows.
    """
    sides = [_TestSplit.read(settings, pipeline, version) for settings, version in ((before, old), (after, new))]
    others = [~np.isin(sides[0].keys, sides[1].keys), ~np.isin(sides[1].keys, sides[0].keys)]
    parts = np.concatenate([side.units[rows] for side, rows in zip(sides, others, strict=True)])
    chosen = [side.select(~np.isin(side.units, parts)) for side in sides]
    examples = chosen[1].examples
    if not len(examples.label):
        return {}, 0
    judge = judge_of(pipeline, examples.sizes)
    measured = [judge.measure(examples.label, side.scores(examples.classes), examples.weight) for side in chosen]
    return {name: (measured[0][name], value) for name, value in measured[1].items()}, len(examples.label)


@dataclass(frozen=True)
class _TestSplit:
    """The test split of a model's training table, and the model."""

    keys: NDArray[Any]  # texts of key and as-of date [n]
    units: NDArray[Any]  # texts of the request of each row [n]; without requests the keys
    examples: SplitExamples
    model: Any

    @classmethod
    def read(cls, settings: Settings, pipeline: Trainable, version: ModelVersion) -> "_TestSplit":
        table, delta_version = version.training_table
        model = open_model(judged_folder(settings, version), pipeline.main_output.spec)
        examples = read_examples(
            settings, pipeline, table=table, version=delta_version, split="test",
            features=model.input_names(version.features), encoding=model.encoding,
        )  # fmt: skip
        keys, units = _read_names(settings, pipeline, table, delta_version)
        return cls(keys, units, examples, model)

    def select(self, mask: NDArray[np.bool_]) -> "_TestSplit":
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
        return _TestSplit(keys, units, ordered, self.model)

    def scores(self, classes: tuple[str, ...]) -> Any:
        return score_features(self.model, self.examples.features, classes, self.examples.sizes)


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
