"""The target of a rollback: a model version, and the store version with its predictions."""

from dataclasses import replace

from forecache.base.errors import CheckError, ConflictError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.alias_moves import describe_move, make_opening_row
from forecache.models.registry.model_versions import champion, list_models, model_version, verified_folder
from forecache.models.registry.promotions import Promotion, earlier_champions, promotions, rolled_back_versions
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.store import Store


def plan_move(
    settings: Settings,
    pipeline: Trainable,
    store: Store,
    *,
    model: int,
    published: Manifest | None,
    actor: str,
    reason: str,
) -> Promotion:
    """The ledger row of a rollback to a model and, if given, to a published version with that model's predictions.

    Raises:
        NotFoundError: There is no champion, or the model version does not exist.
        CheckError: The model was never champion, or its artifact was changed.
        ConflictError: The model, or one with the same weights, is the champion and the version is current: there is
            nothing to move.
    """
    entries = promotions(settings, pipeline.name)
    current, served = champion(settings, pipeline).version, store.pointer().current
    if model == current and (published is None or published.version == served):
        raise ConflictError(f"Model {pipeline.name!r} version {model} is the champion, and its predictions are served.")
    known = earlier_champions(entries)
    if model not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise CheckError(
            f"Model {pipeline.name!r} version {model} was never champion.",
            remedy=f"Past champions: {listed}. To go back with the predictions alone, add --keep-model.",
        )
    chosen = model_version(settings, pipeline, model)
    if model != current and is_same_model(settings, pipeline, model, current):
        raise ConflictError(
            f"Model {pipeline.name!r} version {model} has the same weights as the champion, version {current}.",
            remedy="Name a version with other weights; without a number, the latest one is taken.",
        )
    verified_folder(settings, chosen)
    entry = make_opening_row(describe_move(settings, pipeline, chosen, action="rollback", actor=actor, reason=reason))
    if published is None:
        return entry
    return replace(
        entry,
        from_published=served,
        from_pinned=store.pointer().pinned,
        to_published=published.version,
        predictions_version=published.source.delta_version,
    )


def find_previous_champion(settings: Settings, pipeline: Trainable) -> int:
    """The latest earlier champion that was not rolled back, and whose weights are not those of one that was.

    Raises:
        NotFoundError: There is no champion, or none before it with other weights.
    """
    current = champion(settings, pipeline).version
    entries = promotions(settings, pipeline.name)
    excluded = rolled_back_versions(entries) | {current}
    weights = weights_by_version(settings, pipeline)
    same = {weights[version] for version in excluded if version in weights}
    past = [version for version in earlier_champions(entries) if version not in excluded]
    past = [version for version in past if weights.get(version) not in same]
    if not past:
        raise NotFoundError(
            f"Model {pipeline.name!r} version {current} is its first champion.",
            remedy="There is nothing to go back to.",
        )
    return past[0]


def weights_by_version(settings: Settings, pipeline: Trainable) -> dict[int, str]:
    """The known digests of weights by version of a pipeline's model."""
    return {v.version: v.weights for v in list_models(settings, pipeline) if v.weights is not None}


def is_same_model(settings: Settings, pipeline: Trainable, first: int, second: int) -> bool:
    """Tell if two versions are equal or have the same weights, as two machines that train at once make them."""
    weights = weights_by_version(settings, pipeline)
    return first == second or (first in weights and weights[first] == weights.get(second))


def find_published_by_model(store: Store, model: int) -> Manifest:
    """The newest published version with a model's predictions, current or earlier, that is not quarantined.

    Raises:
        NotFoundError: The store retains no such version.
    """
    current, bad = store.pointer().current, store.quarantined_versions()
    found = [m for m in store.versions() if m.version not in bad and current is not None and m.version <= current]
    made = [manifest for manifest in found if manifest.provenance.model_version == model]
    if made:
        return made[-1]
    retained = ", ".join(f"{m.version} by model {m.provenance.model_version}" for m in found) or "none"
    raise NotFoundError(
        f"The store of {store.pipeline} retains no good version that model {model} made; it has {retained}.",
        remedy=f"Move the model with `forecache models rollback {store.pipeline} --to {model} --model-only`, "
        f"then `forecache run {store.pipeline}` scores the newest as-of date with it and publishes that.",
    )


def versions_to_quarantine(store: Store, entry: Promotion) -> list[int]:
    """Store versions that a rollback quarantines: the current one, and those after its target by models it leaves."""
    assert entry.from_published is not None
    assert entry.to_published is not None
    if entry.from_published == entry.to_published:
        return []
    made_by = {manifest.version: manifest.provenance.model_version for manifest in store.versions()}
    models = {made_by.get(entry.from_published), entry.from_version} - {entry.to_version}
    bad = store.quarantined_versions()
    between = [
        version
        for version, model in made_by.items()
        if entry.to_published < version < entry.from_published and model in models and version not in bad
    ]
    return [*between, entry.from_published]  # included even if its manifest cannot be read
