"""Notes of a plan: what has changed in a declaration and would not run."""

from collections.abc import Iterator

from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime
from forecache.lake.ledger import last_record
from forecache.lake.training_set import STAGE as TRAINING_SET
from forecache.models.training.launch import STAGE as TRAIN
from forecache.plugins.plan.causes import CauseFinder


def note_training(settings: Settings, declared: Pipeline | Realtime, causes: CauseFinder) -> Iterator[str]:
    """A sentence for each stage of the training, which a nightly run leaves out, that would find the declaration
    changed.
    """
    for stage in (TRAINING_SET, TRAIN):
        before = last_record(settings, stage, declared.name)
        if before is None:
            continue
        now = {"label": declared.fingerprints.training_set, "declared": declared.fingerprints.training}
        words = dict(word.split("=", 1) for word in before.inputs.split() if "=" in word)
        for part, fingerprint in now.items():
            if words.get(part, fingerprint) != fingerprint:
                differences = "; ".join(causes.compare_fingerprints(words[part], fingerprint))
                yield f"The next {stage.replace('_', ' ')} of {declared.name} differs: {differences}."
