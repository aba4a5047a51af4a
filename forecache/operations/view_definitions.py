"""Keeping definitions of features, and computing features by them.

A definition is loaded in a process of its own, in which the kept source is the project: its modules have their own
names, so that it gives the contract again to the letter, and Spark's workers get the same modules.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from forecache.base.errors import (
    CheckError,
    ConflictError,
    ForecacheError,
    InputError,
    NotYetError,
    UnavailableError,
)
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, contract_step
from forecache.base.table_names import NAME
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.realtime.realtime import Realtime
from forecache.lake.kept_definitions import KeptDefinition, has_definition, write_definition
from forecache.operations.prove_release import pack_code

_START = "import sys; sys.path[0] or sys.path.pop(0); from forecache.operations.kept_process import main; main()"
"""Without the current folder in the path, which may have the project as it is now."""
_LOG_BYTES = 2000
_KINDS: tuple[type[ForecacheError], ...] = (InputError, CheckError, ConflictError, UnavailableError, NotYetError)
"""Errors of the process that are raised again as they are, or as the first of these that they are a kind of."""


@dataclass(frozen=True)
class KeptTask:
    """A task of a process that loads a definition: without dates, it only tells the contract.

    Attributes:
        declared: By view as it is declared now, its fingerprint: features of a pipeline are joined from its table.
        key: The key that the features of a pipeline need to have.
        present: The fingerprint of its features as they are declared now, which need no tables of their own.
        found: What the look that asks has found so far; None: the process builds.
    """

    settings: Settings
    definition: KeptDefinition
    nights: tuple[date, ...] = ()
    run_id: str = ""
    rebuild: bool = False
    declared: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    present: str = ""
    found: Mapping[Hashable, Any] | None = None


def keep_definitions(settings: Settings, realtime: Realtime, *, progress: Progress = no_progress) -> None:
    """Keep the definitions of a model's views, so that their features can be built after the views have changed."""
    for view in realtime.views:
        wanted = KeptDefinition(view.name, view.packed.contract, settings.project)
        _keep(settings, realtime, wanted, _refusal(view) or _refuse_name(wanted), progress)


def keep_features_definition(settings: Settings, pipeline: Pipeline, *, progress: Progress = no_progress) -> None:
    """Keep the definition of a pipeline's features, so that a model trained on them scores them after they change."""
    wanted = KeptDefinition(pipeline.name, pipeline.fingerprints.features, settings.project, kind="features")
    joined = pipeline.views if pipeline.is_joined else ()
    names = [wanted, *(replace(wanted, name=view.name) for view in joined)]
    _keep(settings, pipeline, wanted, next(filter(None, map(_refuse_name, names)), ""), progress)


def _keep(
    settings: Settings, declared: Realtime | Pipeline, wanted: KeptDefinition, refusal: str, progress: Progress
) -> None:
    """Write the definition of features that a declaration uses, unless it is there; or report why it cannot be kept."""
    module = _find_module(settings, declared)
    if module is None or refusal:
        why = refusal or f"{declared.name} is not declared in a module of {settings.project}.pipelines."
        progress(f"the features of {wanted.name} end with its next change: {why}", None)
        return
    if has_definition(settings, wanted.name, wanted.contract, wanted.kind):
        return
    begin_work(f"keeping the definition of {wanted.name}")
    try:
        definition = _define(settings, module, wanted)
    except ForecacheError as error:  # its process was ended, for example: the next run tries again
        progress(f"the definition of {wanted.inline_name} is not kept yet: {error}", None)
        return
    if definition.problem:
        progress(f"the features of {wanted.name} end with its next change: {definition.problem}", None)
    write_definition(settings, definition)
    contract_step("definition kept")


def _define(settings: Settings, module: ModuleType, definition: KeptDefinition) -> KeptDefinition:
    """Pack the source of a definition, and load it again to see that it gives the same contract.

    What it depends on is a problem of the definition for good; other errors of `run_definition` are raised.
    """
    try:
        packed = replace(definition, files={path: text.decode() for path, text in pack_code([module]).items()})
        run_definition(KeptTask(settings, packed))
    except (InputError, CheckError, UnicodeDecodeError) as error:
        return replace(definition, problem=str(error))
    return packed


def _refusal(view: FeatureView) -> str:
    if view.live is not None:
        return "It is merged with a stream, which computes it by one definition only."
    return ""


def _refuse_name(definition: KeptDefinition) -> str:
    return "" if NAME.fullmatch(definition.kept_name) else "Its name has more than 45 characters."


def _find_module(settings: Settings, declared: Realtime | Pipeline) -> ModuleType | None:
    prefix = f"{settings.project}.pipelines."
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(prefix)]
    return next((module for module in loaded if any(value is declared for value in vars(module).values())), None)


def run_definition(task: KeptTask, *, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Load a definition in a process of its own, and build and publish its features there; returns its results.

    Raises:
        InputError: It cannot be loaded any more.
        CheckError: It gives another contract, or its features did not pass their checks.
        ConflictError, UnavailableError, NotYetError: As in this process.
        ForecacheError: The process has failed or was ended.
    """
    with tempfile.TemporaryDirectory(prefix="forecache-view-") as place:
        folder = Path(place)
        for path, content in task.definition.files.items():
            file = folder / "source" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        log = folder / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(folder / "source"), *filter(None, sys.path)]),
                    "PYTHONSAFEPATH": "1",  # Spark's workers do not look into the current folder either
                },
            )
            with process:
                results = _follow(process, task, progress)
        if results is not None and process.returncode == 0:
            return results
        last = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
        raise ForecacheError(
            f"The process of {task.definition.kept_name} ended with the exit code {process.returncode}: "
            f"{last.splitlines()[-1] if last else 'it said nothing'}",
            remedy="Run again.",
        )


def _follow(process: "subprocess.Popen[bytes]", task: KeptTask, progress: Progress) -> list[dict[str, Any]] | None:
    """Give a process its task, report its progress, and return its results; None if it ended without any."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(pickle.dumps(task))
        process.stdin.close()
    except BrokenPipeError:
        return None
    failure: ForecacheError | None = None
    results: list[dict[str, Any]] | None = None
    for line in process.stdout:
        if not line.endswith(b"\n"):
            break  # it was killed while it wrote
        said = json.loads(line)
        if "progress" in said:
            progress(said["progress"], said["share"])
        elif "error" in said:
            known = {each.__name__: each for each in _KINDS}
            kind = next((known[name] for name in said["kinds"] if name in known), ForecacheError)
            failure = kind(said["error"], remedy=said["remedy"])
        else:
            results = said["results"]
    if failure is not None:
        raise failure
    return results
