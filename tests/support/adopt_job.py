"""Runs of a changed project in an installation beside its trial, in processes of their own."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dying import dies_at
from try_job import DAYS, use_project

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.runs import Job

COMPUTED = ("features", "training_set", "train", "score", "recommend")


@dataclass
class Ran:
    """What a run did: stages that computed, those whose work was taken over, and all that it said."""

    worked: list[str] = field(default_factory=list)
    taken_over: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    feature_version: int = -1

    @property
    def computed(self) -> list[str]:
        return sorted({each for each in self.worked if each.split()[0] in COMPUTED} - set(self.taken_over))


def run_and_tell(start: Any, project: Path, home: Path, job: Job, more: Mapping[str, Any]) -> Ran:
    ours, theirs = get_context("fork").Pipe()
    process = start(_run, project, home, job, more, theirs)
    theirs.close()  # so that one that fails ends the wait
    found: Ran = ours.recv()
    process.join(300)
    assert process.exitcode == 0
    return found


def _run(project: Path, home: Path, job: Job, more: Mapping[str, Any], told: Any) -> None:
    told.send(run_and_note(use_project(project, home, **more), "spend", DAYS[-1], job))


def run_and_note(settings: Settings, name: str, night: date, job: Job = "nightly") -> Ran:
    """Run a declaration for a date in this process."""
    from forecache.lake.ledger import last_record
    from forecache.runs import RunRequest, run_in_process

    ran = Ran()

    def note(message: str, share: float | None = None) -> None:
        ran.said.append(message)
        what, taken, _ = message.partition(": taken over from ")
        if taken:
            stage, _, subject = what.partition(" of ")
            ran.taken_over.append(f"{stage} {subject.partition(' for ')[0]}")

    results = run_in_process(settings, RunRequest([name], nights=(night, night), job=job), progress=note)
    ran.worked = [f"{each.stage} {each.subject}" for each in results if not each.skipped]
    ran.taken_over = sorted({each for each in ran.taken_over if not each.startswith("tiles ")})
    row = last_record(settings, "features", name, night)
    ran.feature_version = -1 if row is None else row.delta_version
    return ran


def run_date(project: Path, home: Path, night: date) -> None:
    """Run the nightly job for a date."""
    from forecache.runs import RunRequest, run_in_process

    run_in_process(use_project(project, home), RunRequest(["spend"], nights=(night, night)))


def run_until(project: Path, home: Path, step: str, more: Mapping[str, Any]) -> None:
    """Run the nightly job, and die at a step of a commit to the lake."""
    from forecache.runs import RunRequest, run_in_process

    lake_step.on_step = dies_at(step)
    run_in_process(use_project(project, home, **more), RunRequest(["spend"], nights=(DAYS[-1], DAYS[-1])))


def run_until_table_is_replaced(folder: Path, sample: str, home: Path, night: date, job: Job) -> None:
    """Run `large` of a copied sample, and die once a table is that of the trial and the lake's state is not yet."""
    from forecache.plugins.trials import adopt
    from forecache.runs import RunRequest, run_in_process

    replace_table = adopt.replace_table

    def replace_and_die(*arguments: Any, **named: Any) -> int:
        replace_table(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    adopt.replace_table = replace_and_die
    sys.path.insert(0, str(folder))
    settings = load_settings("", home=home, project=sample)
    run_in_process(settings, RunRequest(["large"], nights=(night, night), job=job))
