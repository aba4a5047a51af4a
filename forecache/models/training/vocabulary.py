"""The categories that a model learns: those of the split that it is trained on."""

import json
from pathlib import Path

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.lake.split_rows import split_batches
from forecache.models.inference.encoding import MatrixEncoding, encoding_of
from forecache.models.training.spec import SPEC_FILE


def learn_vocabularies(settings: Settings, pipeline: Trainable, *, version: int) -> dict[str, list[str]]:
    """The categories in the training split, in order, by name of each category feature without declared ones.

    Raises:
        InputError: There are more than the feature allows.
    """
    learning = [each for each in pipeline.feature_columns if each.type == "category" and each.categories is None]
    most = {feature.name: feature.max_categories for feature in learning}
    found: dict[str, set[str]] = {name: set() for name in most}
    if not found:
        return {}
    table = pipeline.training_table
    for batch in split_batches(settings, table, version=version, split="train", columns=list(found)):
        for name, known in found.items():
            known.update(value for value in batch.column(name).unique().to_pylist() if value)
            if len(known) > most[name]:
                raise InputError(
                    f"The category {name!r} of pipeline {pipeline.name!r} has more than the {most[name]:,} that "
                    f"max_categories allows in the training split.",
                    remedy="Raise max_categories, declare the categories that count, or return fewer.",
                )
    return {name: sorted(known) for name, known in found.items()}


def trained_encoding(pipeline: Trainable, run_dir: Path) -> MatrixEncoding:
    """The encoding of the model that a run trained."""
    path = run_dir / SPEC_FILE
    learned = json.loads(path.read_text()).get("vocabularies", {}) if path.is_file() else {}
    return encoding_of(pipeline.feature_columns, learned)
