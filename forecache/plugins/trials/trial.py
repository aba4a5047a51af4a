"""Trials of an environment: made as a fork of it, listed, and removed. Each has a home in the folder of its trials.

<trials>/NAME/trial.json   what was forked, and when; written last, before the draft of the fork gets its name
<trials>/NAME/lake/...     the tables, at the versions of the fork and later
<trials>/NAME/lake.uri     instead, if the environment's lake is in a bucket: where in it the tables are
<trials>/NAME/mlflow/...   the registry, with the versions of the fork and later
<trials>/.NAME.lock        held by the process that makes, runs or removes the trial
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.base.code_version import code_version
from forecache.base.environments import LOCAL, TRIAL_FILE, TRIAL_LAKE_FILE, read_trial_lake, require_name
from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.base.files import lock, move_durably, write_durably
from forecache.base.settings import Settings, trial_settings
from forecache.base.steps import try_step
from forecache.kit.delta.files import Place
from forecache.kit.delta.tables import open_table, table_names
from forecache.kit.installation import open_lake
from forecache.models.training.spec import RESULT_FILE
from forecache.plugins.trials.fork_lake import copy_folder, fork_lake, link_folder, place_of_lake
from forecache.plugins.trials.fork_models import fork_models, forked_runs
from forecache.plugins.trials.share_files import open_place, require_near
from forecache.serve.store.layout import REALTIME

_FORMAT = 1
_DRAFT = ".draft-"


@dataclass(frozen=True)
class Trial:
    """A trial, and the state of the environment that it defers to.

    Attributes:
        base: Name of the environment; "local" for one without a name.
        tables: The Delta version of each table that was forked.
        models: The highest version of each model that was forked.
    """

    name: str
    base: str
    base_home: str
    base_lake: str
    forked_at: datetime
    code_version: str
    tables: Mapping[str, int]
    models: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "forked_at": self.forked_at.isoformat()}


def read_trial(trial: Settings) -> Trial | None:
    """Read the note of a trial in its home; None if there is none yet."""
    path = trial.home_path / TRIAL_FILE
    try:
        values = json.loads(path.read_text())
        values.pop("format")
        return Trial(**{**values, "forked_at": datetime.fromisoformat(values["forked_at"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged: {error}.", remedy="Remove the trial's folder, and try again.") from None


def list_trials(base: Settings) -> list[tuple[Settings, Trial]]:
    """The trials that defer to an environment, the newest first, each with its settings."""
    folder = base.trials_path
    names = [path.parent.name for path in folder.glob(f"[!.]*/{TRIAL_FILE}")] if folder.is_dir() else []
    found = [(settings, read_trial(settings)) for settings in (trial_settings(base, name) for name in names)]
    made = [(settings, trial) for settings, trial in found if trial is not None]
    return sorted(made, key=lambda each: each[1].forked_at, reverse=True)


@contextmanager
def hold_trial(
    base: Settings, name: str, action: str, *, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a trial for one process at a time; without `waiting`, ConflictError if another one has it."""

    def refuse(holder: str) -> ConflictError:
        return ConflictError(f"The trial {name!r} is being used by {holder}.", remedy="Wait for it, and try again.")

    path = base.trials_path / f".{require_name(name, kind='a trial')}.lock"
    holder = f"process {os.getpid()} ({action})"
    with lock(path, holder=holder, waiting=waiting or (lambda _: None), refused=None if waiting else refuse):
        yield


def fork(base: Settings, name: str) -> Trial:
    """Make a trial as a fork of an environment, which is only read; the caller holds it.

    It is made as a draft under another name, which the next call removes if this process is killed.
    """
    trial, folder = trial_settings(base, name), base.trials_path
    _refuse_other_folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    forked_at = datetime.now(timezone.utc)
    _remove_drafts(base, name)
    draft = _new_draft(base, name)
    tables = fork_lake(base, _new_lake(base, draft))
    copy_folder(Place(str(base.store_path / REALTIME)), Place(str(draft / "store" / REALTIME)))
    database = draft / "mlflow" / "mlflow.db"
    models = fork_models(base, trial, database)
    _fork_trainings(base, draft / "training", forked_runs(database))
    try_step("models forked")
    made = Trial(
        name, base.env or LOCAL, str(base.home_path), base.lake_uri, forked_at, code_version(base), tables, models
    )
    write_durably(draft / TRIAL_FILE, json.dumps({"format": _FORMAT, **made.as_dict()}, indent=2))
    try_step("noted")
    move_durably(draft, trial.home_path)
    try_step("forked")
    return made


def _refuse_other_folder(trial: Settings) -> None:
    """Raise DamagedError if a trial's home is something else, such as the home of an environment beside the trials."""
    if trial.home_path.exists() and not (trial.home_path / TRIAL_FILE).exists():
        raise DamagedError(
            f"{trial.home_path} is no trial: it has no {TRIAL_FILE}.",
            remedy="Give another name. Or, if nobody needs the folder, remove it by hand.",
        )


def _new_draft(base: Settings, name: str) -> Path:
    """A folder beside the trial that is no trial; no name has the sign after its own."""
    return base.trials_path / f"{_DRAFT}{name}+{uuid.uuid4().hex[:8]}"


def _new_lake(base: Settings, draft: Path) -> str:
    """The place of the lake of a new draft; in a bucket one that no trial had before, as objects cannot be moved.

    SettingsError if the files of the environment's lake cannot be linked or copied there.
    """
    is_remote = base.lake_is_remote or "://" in base.trials
    prefix = draft.name.removeprefix(_DRAFT).replace("+", "-")
    lake = f"{base.trials_uri}/{prefix}" if is_remote else str(draft / "lake")
    require_near(place_of_lake(base), Place(lake))
    draft.mkdir(parents=True)
    if is_remote:
        write_durably(draft / TRIAL_LAKE_FILE, lake)  # before its first object, so that the next process can remove it
    return lake


def _find_drafts(base: Settings, name: str) -> list[Path]:
    return list(base.trials_path.glob(f"{_DRAFT}{name}+*"))


def _remove_drafts(base: Settings, name: str) -> None:
    """Remove what processes that held a trial before have left half made or half removed."""
    for draft in _find_drafts(base, name):
        if uri := read_trial_lake(draft):
            if not re.fullmatch(rf".+/{re.escape(name)}-[0-9a-f]{{8}}", uri):  # such as the environment's lake
                raise DamagedError(
                    f"{draft / TRIAL_LAKE_FILE} names {uri!r}, which is no lake of this trial, and is not removed.",
                    remedy=f"Remove {draft} by hand.",
                )
            lake = open_place(Place(uri, base.storage_options))
            lake.delete(lake.names())
        shutil.rmtree(draft)


def _fork_trainings(base: Settings, target: Path, runs: set[str]) -> None:
    """Link the folders of trainings that have ended and whose run was forked, so that equal inputs are not trained."""
    from forecache.models.tracking.runs import RUN_FILE, read_run_id

    for result in base.training_path.glob(f"*/*/{RESULT_FILE}"):
        folder = result.parent
        if (folder / RUN_FILE).is_file() and read_run_id(folder) in runs:
            link_folder(folder, target / folder.relative_to(base.training_path))


def remove(base: Settings, name: str) -> None:
    """Remove a trial; what it has in common with the environment that it defers to stays there.

    NotFoundError if there is none of that name, ConflictError if a process uses it, DamagedError if it is no trial.
    """
    trial = trial_settings(base, name)
    if not (trial.home_path.is_dir() or _find_drafts(base, name)):
        known = ", ".join(each.name for _, each in list_trials(base)) or "none"
        raise NotFoundError(f"There is no trial {trial.env!r}.", remedy=f"There are: {known}.")
    with hold_trial(base, name, "removes it"):
        _refuse_other_folder(trial)
        if trial.home_path.is_dir():
            # Under another name first, so that a kill leaves no trial that lacks something.
            move_durably(trial.home_path, _new_draft(base, name))
        _remove_drafts(base, name)


def changed_tables(trial: Settings, made: Trial) -> dict[str, int]:
    """The tables that a trial has committed to since its fork, or has made, each with its version."""
    versions = {name: open_table(trial, name).version() for name in table_names(trial)}
    return {name: version for name, version in versions.items() if made.tables.get(name) != version}


def own_bytes(trial: Settings) -> int:
    """Bytes that a trial takes on the disk beside those that it has in common with others, and in a bucket."""
    total = sum(open_lake(trial).sizes().values()) if trial.lake_is_remote else 0
    for folder, _, files in os.walk(trial.home_path):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            with suppress(FileNotFoundError):  # a run in the trial has removed it meanwhile
                found = os.lstat(path)
                total += found.st_blocks * 512 if found.st_nlink == 1 or found.st_mode & 0o40000 else 0
    return total
