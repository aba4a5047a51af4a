"""Kept definitions of feature views: the source that computes the features of a contract, in the lake.

<lake>/.state/views/<view>/<contract>.json    written before the first release that names the contract

A definition is loaded in a process of its own, in which the kept source is the project: its modules have their own
names, so that it gives the contract again to the letter, and Spark's workers get the same modules.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from forecache.base.errors import CheckError, DamagedError, ForecacheError, InputError, NotFoundError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, contract_step
from forecache.base.table_names import NAME, kept_name
from forecache.declare.features.view import FeatureView
from forecache.declare.realtime.realtime import Realtime
from forecache.kit.installation import open_state
from forecache.operations.prove_release import pack_code

_FOLDER = "views"
_FORMAT = 1
_START = "import sys; sys.path[0] or sys.path.pop(0); from forecache.operations.kept_view_process import main; main()"
"""Without the current folder in the path, which may have the project as it is now."""
_LOG_BYTES = 2000


@dataclass(frozen=True)
class ViewDefinition:
    """The source of a feature view under one contract; `problem` is the reason why it cannot be kept, else ""."""

    view: str
    contract: str
    project: str  # the package whose sub-package `pipelines` declares it
    files: Mapping[str, str] = field(default_factory=dict)  # source by path: "shop/pipelines/search.py"
    problem: str = ""
    format: int = _FORMAT

    @property
    def kept_name(self) -> str:
        return kept_name(self.view, self.contract)


@dataclass(frozen=True)
class KeptViewTask:
    """A task of a process that loads a definition: without dates, it only tells the contract."""

    settings: Settings
    definition: ViewDefinition
    nights: tuple[date, ...] = ()
    run_id: str = ""
    rebuild: bool = False


def keep_definitions(settings: Settings, realtime: Realtime, *, progress: Progress = no_progress) -> None:
    """Keep the definitions of a model's views, so that their features can be built after the views have changed."""
    state, module = open_state(settings), _find_module(settings, realtime)
    for view in realtime.views:
        name, refusal = _file(view.name, view.packed.contract), _refusal(view)
        if module is None or refusal:
            why = refusal or f"{realtime.name} is not declared in a module of {settings.project}.pipelines."
            progress(f"the features of {view.name} end with its next change: {why}", None)
            continue
        if state.size(name) is not None:
            continue
        begin_work(f"keeping the definition of {view.name}")
        definition = _define(settings, module, view)
        if definition.problem:
            progress(f"the features of {view.name} end with its next change: {definition.problem}", None)
        state.write(name, json.dumps(asdict(definition)).encode())
        contract_step("definition kept")


def list_contracts(settings: Settings, view: str = "") -> list[tuple[str, str]]:
    """List the views and contracts with a definition, of one view or of all, also if it says that it cannot be kept."""
    prefix = f"{_FOLDER}/{view}" if view else _FOLDER
    paths = [Path(name) for name in open_state(settings).names(prefix) if name.endswith(".json")]
    return sorted((path.parent.name, path.stem) for path in paths)


def read_definition(settings: Settings, view: str, contract: str) -> ViewDefinition:
    """Read a definition; raises `NotFoundError` if there is none, `DamagedError` if it cannot be read."""
    found = open_state(settings).read(_file(view, contract))
    if found is None:
        raise NotFoundError(f"The lake has no definition of the contract {contract} of the view {view}.")
    what = f"The file .state/{_file(view, contract)} of the lake"
    try:
        data = json.loads(found[0])
    except ValueError:
        raise DamagedError(f"{what} is damaged.", remedy="Remove it, which ends its features.") from None
    if data.get("format") != _FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {_FORMAT}.",
            remedy="Run the version of Forecache that wrote it.",
        )
    return ViewDefinition(**data)


def remove_definition(settings: Settings, view: str, contract: str) -> None:
    open_state(settings).delete([_file(view, contract)])


def _file(view: str, contract: str) -> str:
    return f"{_FOLDER}/{view}/{contract}.json"


def _define(settings: Settings, module: ModuleType, view: FeatureView) -> ViewDefinition:
    """Pack the definition of a view, and load it again to see that it gives the same contract."""
    definition = ViewDefinition(view.name, view.packed.contract, settings.project)
    try:
        packed = replace(definition, files={path: text.decode() for path, text in pack_code([module]).items()})
        run_definition(KeptViewTask(settings, packed))
    except (ForecacheError, UnicodeDecodeError) as error:
        return replace(definition, problem=str(error))
    return packed


def _refusal(view: FeatureView) -> str:
    if view.live is not None:
        return "It is merged with a stream, which computes it by one definition only."
    if view.publishing.backend == "redis":
        return "It is published to Redis."
    if not NAME.fullmatch(kept_name(view.name, view.packed.contract)):
        return "Its name has more than 45 characters."
    return ""


def _find_module(settings: Settings, realtime: Realtime) -> ModuleType | None:
    prefix = f"{settings.project}.pipelines."
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(prefix)]
    return next((module for module in loaded if any(value is realtime for value in vars(module).values())), None)


def run_definition(task: KeptViewTask, *, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Load a definition in a process of its own, and build and publish its features there; returns its results.

    Raises:
        InputError: It cannot be loaded any more.
        CheckError: It gives another contract, or its features did not pass their checks.
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


def _follow(process: "subprocess.Popen[bytes]", task: KeptViewTask, progress: Progress) -> list[dict[str, Any]] | None:
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
            kind = {"InputError": InputError, "CheckError": CheckError}.get(said["kind"], ForecacheError)
            failure = kind(said["error"], remedy=said["remedy"])
        else:
            results = said["results"]
    if failure is not None:
        raise failure
    return results
