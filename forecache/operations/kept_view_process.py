"""The process that loads a kept definition of a feature view, and builds and publishes its features.

It reads its task from standard input, and writes lines of JSON: progress, then results or an error. What the project's
code prints goes to the log.
"""

import importlib.util
import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from forecache.base.errors import CheckError, ForecacheError, InputError
from forecache.declare.features.view import FeatureView
from forecache.declare.loading import read_project
from forecache.kit.process.child import end_with_parent
from forecache.operations.view_definitions import KeptViewTask


def main() -> None:
    end_with_parent()
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**said: Any) -> None:
        lines.write(json.dumps(said, default=str) + "\n")

    try:
        say(results=do_task(pickle.load(sys.stdin.buffer), say))
    except ForecacheError as error:
        say(error=error.message, remedy=error.remedy, kind=type(error).__name__)


def do_task(task: KeptViewTask, say: Callable[..., None]) -> list[dict[str, Any]]:
    """Load the view of a definition; build, check and publish its dates under the name of the kept contract."""
    view = load_view(task)
    if not task.nights:
        return []
    from forecache.lake.engine import find_spark_functions
    from forecache.lake.features import build_view
    from forecache.lake.quality.pending_files import ProcessRun
    from forecache.lake.quality.stage_checks import check_features, require_success
    from forecache.operations.publish_night import publish_newest_night

    def report(message: str, share: float | None) -> None:
        say(progress=message, share=share)

    run = ProcessRun(task.settings, report, rebuild=task.rebuild)
    run.run_id = task.run_id or run.run_id
    with TemporaryDirectory() as place:
        if find_spark_functions([view]):
            send_source(task, Path(place) / "source.zip")
        run.run_stage(build_view, task.settings, view, task.nights, rebuild=task.rebuild)
    require_success(check_features(run, view, task.nights))
    run.run_stage(publish_newest_night, task.settings, view)
    return [asdict(result) for result in run.results]


def send_source(task: KeptViewTask, archive: Path) -> None:
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
            f"Spark's workers import another {', '.join(others)} than is kept of the view {task.definition.view}.",
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


def load_view(task: KeptViewTask) -> FeatureView:
    """Load the view of a definition, with the name of the kept contract.

    Raises:
        InputError: The source cannot be loaded.
        CheckError: The view has another contract than it had.
    """
    definition = task.definition
    project = read_project(task.settings.model_copy(update={"project": definition.project}))
    view = project.views.get(definition.view)
    if view is None:
        why = " ".join(error.message for error in project.broken.values()) or "its source does not declare it."
        raise InputError(f"The kept definition of the view {definition.view} cannot be loaded: {why}")
    if view.packed.contract != definition.contract:
        raise CheckError(
            f"The kept definition of the view {definition.view} gives the contract {view.packed.contract}, not "
            f"{definition.contract}.",
            remedy="It depends on more than its modules, or on another version of Forecache. Train and release what "
            "uses it.",
        )
    return replace(view, name=definition.kept_name)
