"""Kept features of pipelines: a model goes on scoring the features that it was trained on after they have changed.

The earlier features have tables of their own, `features_<pipeline>__<contract>`, which are not published. A nightly run
builds them as long as the champion, or a challenger, was trained on them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from forecache.base.errors import PASSING, CheckError, ForecacheError, NotFoundError, NotYetError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, contract_step, is_looking, list_found
from forecache.base.table_names import FEATURES, TILES, kept_name
from forecache.declare import Pipeline, Realtime
from forecache.declare.loading import read_project
from forecache.kit.delta.tables import table_exists
from forecache.kit.installation import open_lake
from forecache.lake.features import STAGE as FEATURES_STAGE
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.lake.kept_definitions import list_contracts, read_definition, remove_definition, write_definition
from forecache.lake.ledger import ASSUMED, last_records
from forecache.lake.quality.pending_files import Run
from forecache.lake.stage_runner import Stage, StaleWork, assume_done, hold_table_lock
from forecache.models.registry.model_versions import (
    CHALLENGER,
    CHAMPION,
    FEATURES_TAG,
    WAITING,
    ModelVersion,
    list_models,
)
from forecache.models.registry.promotions import promotions
from forecache.models.registry.register import register_trained_model
from forecache.operations.kept_contracts import remove_kept_tables
from forecache.operations.rollback import find_previous_champion, recover_interrupted
from forecache.operations.view_definitions import KeptTask, keep_features_definition, run_definition
from forecache.scoring.trained_features import assume_present, find_scored_pipeline


def register_model(
    settings: Settings,
    declared: Pipeline | Realtime,
    training: StageResult,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Register a trained model as `register_trained_model` does, and keep the definition of its pipeline's features."""
    result = register_trained_model(settings, declared, training, run_id=run_id, progress=progress)
    if isinstance(declared, Pipeline):
        keep_features_definition(settings, declared, progress=progress)
    return result


def keep_features(run: Run, pipeline: Pipeline, nights: Sequence[date]) -> None:
    """Build the earlier features that models were trained on which are about to score; end those that none needs.

    An interrupted move of the champion is finished first. The definition of the present features is kept, too, if the
    champion was trained on them.

    Raises:
        CheckError: The champion's features cannot be built, or failed their checks: what is scored stays as it is.
    """
    settings = run.settings
    recover_interrupted(settings, pipeline, progress=run.progress)
    if not pipeline.is_trained:
        return
    for model in list_scoring_models(settings, pipeline):
        is_champion = CHAMPION in model.aliases
        if find_scored_pipeline(settings, pipeline, model) is pipeline:
            if is_champion and model.tags.get(FEATURES_TAG) == pipeline.fingerprints.features:
                keep_features_definition(settings, pipeline, progress=run.progress)
            continue
        try:
            _build(run, pipeline, model, nights)
        except (ForecacheError, OSError) as error:
            if is_champion and isinstance(error, (*PASSING, NotYetError)):
                raise
            reason = f"The features that the model {model.name} {model.version} was trained on are not built: {error}"
            if is_champion:
                remedy = f"The last predictions stay. `forecache train {pipeline.name}` trains on the present features."
                raise CheckError(reason, remedy=remedy) from error
            run.report_progress(reason)
            run.add_objection(reason)
    if not is_looking() and settings.base is None:
        try:
            retire_features(settings, pipeline, run_id=run.run_id, progress=run.progress)
        except (ForecacheError, OSError) as error:
            run.add_objection(f"Earlier features of {pipeline.name} could not be looked after: {error}")


def list_scoring_models(settings: Settings, pipeline: Pipeline) -> list[ModelVersion]:
    """The versions that a nightly run scores: the champion, then the challenger of a pipeline with `shadow`."""
    wanted = (CHAMPION, CHALLENGER) if pipeline.shadow else (CHAMPION,)
    found = [each for each in list_models(settings, pipeline) if not set(wanted).isdisjoint(each.aliases)]
    return sorted(found, key=lambda each: CHAMPION not in each.aliases)


def _build(run: Run, pipeline: Pipeline, model: ModelVersion, nights: Sequence[date]) -> None:
    if is_looking():
        for work in find_stale_features(run.settings, pipeline, model, nights, rebuild=run.rebuild):
            begin_work(f"{work.stage.name} of {work.stage.subject}", stale=work)
        return
    task = replace(_task(run.settings, pipeline, model, nights, rebuild=run.rebuild), run_id=run.run_id)
    run.report_progress(f"{task.definition.kept_name} is kept for the model {model.name} {model.version}")
    results = run_definition(task, progress=run.progress)
    if _are_present(results):
        write_definition(run.settings, replace(task.definition, same_as=task.present))
        return
    contract_step("earlier features built")


def _are_present(results: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a process has found that the earlier features are the present ones."""
    return bool(results) and "same_as" in results[0]


def _task(
    settings: Settings, pipeline: Pipeline, model: ModelVersion, nights: Sequence[date], *, rebuild: bool
) -> KeptTask:
    definition = read_definition(settings, pipeline.name, model.tags[FEATURES_TAG], "features")
    rebuild = rebuild or not table_exists(settings, FEATURES + definition.kept_name)
    declared = {view.name: view.fingerprint for view in pipeline.views} if pipeline.is_joined else {}
    present = pipeline.fingerprints.features
    return KeptTask(settings, definition, tuple(nights), "", rebuild, declared, pipeline.key, present)


def find_stale_features(
    settings: Settings, pipeline: Pipeline, model: ModelVersion, nights: Sequence[date], *, rebuild: bool = False
) -> list[StaleWork]:
    """Find the stages that would build a model's earlier features, in a process that only looks, which takes them as
    done; [] if it scores the present features.
    """
    if find_scored_pipeline(settings, pipeline, model) is pipeline:
        return []
    task = _task(settings, pipeline, model, nights, rebuild=rebuild)
    task = replace(task, found=list_found(ASSUMED, FILES_TABLE))
    results, found = run_definition(task), list[StaleWork]()
    if _are_present(results):
        assume_present(settings, task.definition)
        return []
    for each in results:
        inputs = {date.fromisoformat(day): text for day, text in each["inputs"].items()}
        before = last_records(settings, each["stage"], each["subject"], nights=inputs)
        found.append(StaleWork(Stage(settings, each["stage"], each["subject"]), inputs, before))
        if each["stage"] == FEATURES_STAGE:
            assume_done(found[-1], FEATURES + each["subject"])
    return found


def retire_features(
    settings: Settings, pipeline: Pipeline, *, run_id: str = "", progress: Progress = no_progress
) -> None:
    """Remove tables of earlier features that no model needs, and definitions that no version was trained on.

    Killed anywhere, the next call goes on.
    """
    present = pipeline.fingerprints.features
    contracts = [contract for _, contract in list_contracts(settings, pipeline.name, "features")]
    if not contracts or (contracts == [present] and not _list_tables(settings, pipeline.name, present)):
        return
    versions = list_models(settings, pipeline)
    if pipeline.is_trained and not versions:
        return  # each definition has a model: a registry without any is not the one that says what is needed
    needed = _find_needed_contracts(settings, pipeline, versions)
    folders = open_lake(settings).folders()
    trained = {each.tags.get(FEATURES_TAG) for each in versions}
    for contract in contracts:
        has_tables = any(folder.rstrip("/").endswith(f"__{contract}") for folder in folders)
        if has_tables and (contract == present or contract not in needed):
            _remove_tables(settings, pipeline.name, contract, run_id, progress)
        if contract != present and contract not in trained:
            remove_definition(settings, pipeline.name, contract, "features")
            contract_step("definition removed")


def retire_all_features(settings: Settings, *, progress: Progress = no_progress) -> None:
    """Retire the earlier features of all declared pipelines."""
    declared = read_project(settings).pipelines
    for name in dict.fromkeys(name for name, _ in list_contracts(settings, kind="features")):
        if name in declared:
            retire_features(settings, declared[name], progress=progress)


def _find_needed_contracts(settings: Settings, pipeline: Pipeline, versions: Sequence[ModelVersion]) -> set[str]:
    """The contracts of models that score, wait to be promoted, or would return by a rollback, for some days."""
    needed = [each for each in versions if {CHAMPION, CHALLENGER} & {*each.aliases} or each.gate == WAITING]
    needed += [each for each in versions[:1] if each.gate == "pending"]
    champions = {each.version for each in needed if CHAMPION in each.aliases}
    passed = [each for each in promotions(settings, pipeline.name) if each.verdict == "passed"]
    moved = [each.recorded_at for each in passed if each.to_version in champions - {each.from_version}]
    if moved and datetime.now(timezone.utc) - max(moved) < timedelta(days=settings.kept_contract_days):
        with suppress(NotFoundError):
            previous = find_previous_champion(settings, pipeline)
            needed += [each for each in versions if each.version == previous]
    return {each.tags[FEATURES_TAG] for each in needed if FEATURES_TAG in each.tags}


def _remove_tables(settings: Settings, name: str, contract: str, run_id: str, progress: Progress) -> None:
    """Remove the tables of earlier features. A second process waits."""
    if _list_tables(settings, name, contract):
        with hold_table_lock(settings, FEATURES + kept_name(name, contract), run_id, progress):
            remove_kept_tables(settings, _list_tables(settings, name, contract), run_id)


def _list_tables(settings: Settings, name: str, contract: str) -> list[str]:
    """List the tables of earlier features: theirs, and those of their views unless another pipeline has them, too.

    Pipelines whose features are computed alike have the same contract.
    """
    own = {prefix + kept_name(name, contract) for prefix in (FEATURES, TILES)}
    folders = [folder.rstrip("/") for folder in open_lake(settings).folders()]
    found = [each for each in folders if each.endswith(f"__{contract}")]
    if {*found} <= own:
        return found
    has_others = any(each == contract and other != name for other, each in list_contracts(settings, kind="features"))
    return [each for each in found if each in own or not has_others]
