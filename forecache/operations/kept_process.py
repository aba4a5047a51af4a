"""The process that loads a kept definition, and builds its features; those of a view it publishes, too.

It reads its task from standard input, and writes lines of JSON: progress, then results or an error. What the project's
code prints goes to the log.
"""

import importlib.util
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from zipfile import ZipFile

from forecache.base.errors import CheckError, ForecacheError, InputError
from forecache.base.plugins import load_hook
from forecache.base.steps import only_look
from forecache.base.table_names import kept_name
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.loading import read_project
from forecache.declare.project import Project
from forecache.kit.process.child import end_with_parent
from forecache.lake.kept_definitions import KeptDefinition
from forecache.lake.stage_runner import StaleWork, assume_done, find_stale_work
from forecache.operations.view_definitions import KeptTask


def main() -> None:
    end_with_parent()
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**said: Any) -> None:
        lines.write(json.dumps(said, default=str) + "\n")

    try:
        say(results=do_task(pickle.load(sys.stdin.buffer), say))
    except ForecacheError as error:
        say(error=error.message, remedy=error.remedy, kinds=[each.__name__ for each in type(error).__mro__])


def do_task(task: KeptTask, say: Callable[..., None]) -> list[dict[str, Any]]:
    """Load a definition; build and check its dates under the name of the kept contract, and publish those of a view.

    A task of a look returns the stages that would work, each with its inputs by date; one of features that are the
    present ones does nothing, and returns `same_as`.
    """
    if task.definition.kind == "features":
        loaded = load_pipeline(task)
        if task.present == loaded.fingerprints.features:
            return [{"same_as": task.present}]
        built: FeatureView | Pipeline = rename_features(loaded, task)
        views = built.views if isinstance(built, Pipeline) else (built,)
        views = tuple(view for view in views if view.name.endswith(f"__{task.definition.contract}"))
    else:
        built = load_view(task)
        views = (built,)
    if not task.nights:
        return []
    if task.found is not None:
        with only_look(task.found):
            return [*find_stale_stages(task, built, views)]
    from forecache.lake.engine import find_spark_functions
    from forecache.lake.features import build_joined, build_view
    from forecache.lake.quality.pending_files import ProcessRun
    from forecache.lake.quality.stage_checks import check_features, require_success
    from forecache.operations.publish_night import publish_newest_night

    def report(message: str, share: float | None) -> None:
        say(progress=message, share=share)

    run = ProcessRun(task.settings, report, rebuild=task.rebuild)
    run.run_id = task.run_id or run.run_id
    entities = built.entities.compute if isinstance(built, Pipeline) and built.entities else None
    with TemporaryDirectory() as place:
        if find_spark_functions(views, entities):
            send_source(task, Path(place) / "source.zip")
        for view in views:
            run.run_stage(build_view, task.settings, view, task.nights, rebuild=task.rebuild)
        if isinstance(built, Pipeline):
            run.run_stage(build_joined, task.settings, built, task.nights, rebuild=task.rebuild)
    require_success(check_features(run, built, task.nights))
    if task.definition.kind == "views":
        run.run_stage(publish_newest_night, task.settings, built)
    return [asdict(result) for result in run.results]


def find_stale_stages(
    task: KeptTask, built: FeatureView | Pipeline, views: Sequence[FeatureView]
) -> Iterator[dict[str, Any]]:
    """Find the stages that would work, in their order; each takes those before it as done."""
    from forecache.lake.features import STAGE, build_joined, build_view
    from forecache.lake.quality.pending_files import ProcessRun
    from forecache.lake.quality.stage_checks import check_features

    settings, nights, found = task.settings, task.nights, list[StaleWork]()
    for view in views:
        if stale := find_stale_work(build_view, settings, view, nights, rebuild=task.rebuild):
            if view.windows:
                days = [day for day in stale.inputs if day]
                tiles = load_hook("window_features", "find_stale_tiles")(settings, view, days)
                if tiles.inputs:
                    found.append(tiles)
                    assume_done(tiles, view.tile_table)
            found.append(stale)
            assume_done(stale, view.feature_table)
    if isinstance(built, Pipeline) and (
        stale := find_stale_work(build_joined, settings, built, nights, rebuild=task.rebuild)
    ):
        found.append(stale)
        assume_done(stale, built.feature_table)
    of_all = (STAGE, task.definition.kept_name)
    written = {day for work in found if (work.stage.name, work.stage.subject) == of_all for day in work.inputs}
    left = [night for night in nights if night not in written]
    if left and (stale := find_stale_work(check_features, ProcessRun(settings), built, left)):
        found.append(stale)
    for work in found:
        inputs = {f"{day}": text for day, text in work.inputs.items()}
        yield {"stage": work.stage.name, "subject": work.stage.subject, "inputs": inputs}


def send_source(task: KeptTask, archive: Path) -> None:
    """Send the kept source to Spark's workers.

    Raises `CheckError` if a worker imports other modules all the same, such as those of an installed project.
    """
    from forecache.kit.spark.session import spark_session

    with ZipFile(archive, "w") as file:
        for path, content in task.definition.files.items():
            file.writestr(path, content)
    context = spark_session(task.settings).sparkContext
    context.addPyFile(str(archive))
    others = context.parallelize([dict(task.definition.files)], 1).flatMap(find_other_modules).collect()
    if others:
        raise CheckError(
            f"Spark's workers import another {', '.join(others)} than is kept of {task.definition.inline_name}.",
            remedy="Let the workers' path not begin with a folder that has the project. Or train and release what uses "
            "the view.",
        )


def find_other_modules(files: Mapping[str, str]) -> list[str]:
    """Find the modules that this process would import from other source than that of some files."""
    found = []
    for path, content in files.items():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        spec = importlib.util.find_spec(name)
        get_source = getattr(spec and spec.loader, "get_source", lambda _: None)
        if get_source(name) != content:
            found.append(name)
    return found


def load_view(task: KeptTask) -> FeatureView:
    """Load the view of a definition, with the name of the kept contract; raises as `_require_contract`."""
    definition = task.definition
    project = read_project(task.settings.model_copy(update={"project": definition.project}))
    view = _require_declared(definition, project, project.views)
    _require_contract(definition, view.packed.contract)
    return replace(view, name=definition.kept_name)


def load_pipeline(task: KeptTask) -> Pipeline:
    """Load the pipeline of a definition; raises as `_require_contract`, and CheckError if its key is another."""
    definition = task.definition
    project = read_project(task.settings.model_copy(update={"project": definition.project}))
    pipeline = _require_declared(definition, project, project.pipelines)
    if pipeline.fingerprints.features not in (task.present, definition.same_as):
        _require_contract(definition, pipeline.fingerprints.features)
    if task.key not in ((), pipeline.key):
        raise CheckError(f"The kept definition of {definition.inline_name} has the key {', '.join(pipeline.key)}.")
    return pipeline


def rename_features(pipeline: Pipeline, task: KeptTask) -> FeatureView | Pipeline:
    """The features of a pipeline with names of the kept contract: their view, or the pipeline if views are joined.

    A joined view that is declared as it was keeps its name, and so its table.
    """
    definition = task.definition
    if not pipeline.is_joined:
        return replace(pipeline.views[0], name=definition.kept_name)
    views = (
        view
        if task.declared.get(view.name) == view.fingerprint
        else replace(view, name=kept_name(view.name, definition.contract))
        for view in pipeline.views
    )
    return replace(pipeline, name=definition.kept_name, features=tuple(views))


_T = TypeVar("_T")


def _require_declared(definition: KeptDefinition, project: Project, declared: Mapping[str, _T]) -> _T:
    if definition.name not in declared:
        why = " ".join(error.message for error in project.broken.values()) or "its source does not declare it."
        raise InputError(f"The kept definition of {definition.inline_name} cannot be loaded: {why}")
    return declared[definition.name]


def _require_contract(definition: KeptDefinition, contract: str) -> None:
    """Refuse what is loaded with another contract than it had.

    Raises:
        CheckError: It has another contract.
    """
    if contract != definition.contract:
        raise CheckError(
            f"The kept definition of {definition.inline_name} gives the contract {contract}, not "
            f"{definition.contract}.",
            remedy="It depends on more than its modules, or on another version of Forecache. Train and release what "
            "uses it.",
        )
