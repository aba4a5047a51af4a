"""A changed copy of the windowed project, and what processes of their own try of it in tests of kills."""

import hashlib
import random
import shutil
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from dying import dies_at

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step, publish_step, try_step

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(20)]
BOUND = "maximum=1e6"
CHANGED = "maximum=79.0"


def land_sales(landing: Path) -> None:
    rng, folder = random.Random(1), landing / "sales"
    folder.mkdir(parents=True, exist_ok=True)
    for day in DAYS:
        rows = [f"{customer},{day},{rng.randint(1, 400) / 4}" for customer in range(200) if rng.random() < 0.8]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")


def copy_project(folder: Path, *, before: str = "", after: str = "") -> Path:
    """Copy the project into a folder, with a text of its pipeline replaced."""
    shutil.copytree(Path(__file__).parent / "windowed_project", folder / "windowed_project")
    [file] = (folder / "windowed_project" / "pipelines").glob("[a-z]*.py")
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after) if before else text)
    return folder


def use_project(project: Path, home: Path, **more: Any) -> Settings:
    """Settings of an installation of a copied project, in a process that has not imported it yet."""
    sys.path.insert(0, str(project))
    return load_settings("", home=home, project="windowed_project", engine="arrow", code_version="fixed", **more)


def contents(folder: Path) -> dict[str, str]:
    """The names of all files and folders, each file with the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def answers(settings: Settings) -> dict[int, float]:
    """The prediction of each customer for the last day."""
    from forecache.kit.delta.tables import open_table

    rows = open_table(settings, "predictions_spend").to_pyarrow_table(filters=[("as_of", "=", DAYS[-1])])
    return dict(zip(rows["customer"].to_pylist(), rows["next_spend"].to_pylist(), strict=True))


def run_from_nothing(project: Path, home: Path, more: Mapping[str, Any]) -> None:
    """Run the project for its last day in a home that has only landing files, as `forecache run --job full` does."""
    from forecache.runs import RunRequest, run_in_process

    run_in_process(use_project(project, home, **more), RunRequest(["spend"], job="full"))


def run_day(project: Path, home: Path, night: date) -> None:
    """Run the project for a day, with the champion that there is."""
    from forecache.runs import RunRequest, run_in_process

    run_in_process(use_project(project, home), RunRequest(["spend"], nights=(night, night)))


def try_once(project: Path, home: Path, name: str, more: Mapping[str, Any]) -> None:
    """Try the project in a trial of the home."""
    from forecache.plugins.trials.run_trial import choose, open_trial, run_trial

    with open_trial(use_project(project, home, **more), name) as run:
        run_trial(run, choose(run, (), None, "nightly"), "nightly")


def try_until(project: Path, home: Path, name: str, step: str, more: Mapping[str, Any]) -> None:
    """Try it, and die at a step."""
    for steps in (try_step, lake_step, publish_step):
        steps.on_step = dies_at(step) if step in steps.names else None
    try_once(project, home, name, more)


def try_full(project: Path, home: Path, name: str, more: Mapping[str, Any]) -> None:
    """Train, score and publish the project in a trial of the home."""
    from forecache.plugins.trials.run_trial import choose, open_trial, run_trial

    with open_trial(use_project(project, home, **more), name) as run:
        run_trial(run, choose(run, (), None, "full"), "full")


def record_until(ended: Path, home: Path, places: Mapping[str, Any]) -> None:
    """Commit a row to a table, and then record its version in the ledger, until a file is there."""
    from itertools import count

    import pyarrow as pa
    from deltalake import write_deltalake

    from forecache.lake.ledger import StageRecord, append_records

    settings = load_settings("", home=home, **places)
    for number in count(1):
        if ended.exists():
            return
        rows = pa.table({"number": pa.array([number], pa.int64())})
        options = settings.storage_options
        write_deltalake(
            settings.table_uri("numbers"), rows, mode="append", schema_mode="merge", storage_options=options
        )
        append_records(settings, [StageRecord("score", "numbers", DAYS[0], "x", "numbers", number, 1, 1.0)])
