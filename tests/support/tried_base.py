"""An installation with a changed project beside it, which trials of it are to answer as a run from nothing does."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from try_job import BOUND, CHANGED, answers, contents, copy_project, land_sales, run_from_nothing
from warm import start_with_trainers

from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.lake.ledger import StageRecord, ledger_records
from forecache.plugins.trials.trial import list_trials, read_trial
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key


class Base:
    """An installation, the same project with another bound of its output, and what a run from nothing answers then."""

    def __init__(self, folder: Path, places: Mapping[str, Any]) -> None:
        self.places = places
        self.project = copy_project(folder / "before")
        self.changed = copy_project(folder / "after", before=BOUND, after=CHANGED)
        self.home = folder / "home"
        for project, home, of in ((self.project, self.home, places), (self.changed, folder / "truth", {})):
            land_sales(home / "landing")
            end(start_with_trainers(run_from_nothing, project, home, of))
        self.settings = load_settings("", home=self.home, **places)
        self.contents = self.read_contents()
        self.truth = answers(load_settings("", home=folder / "truth"))
        assert self.truth != answers(self.settings)

    def read_contents(self) -> dict[str, str]:
        """All that the installation has: its home, and its lake if that is in a bucket."""
        remote = self.settings.lake_is_remote
        return contents(self.home) | (objects(self.settings, self.settings.lake_uri) if remote else {})

    def trial(self, name: str) -> Settings:
        return trial_settings(self.settings, name)

    def require_done(self, name: str) -> list[StageRecord]:
        """The trial answers as a run from nothing, the base is as it was; returns what the trial has recorded."""
        assert self.read_contents() == self.contents
        trial = self.trial(name)
        assert answers(trial) == self.truth
        made = read_trial(trial)
        assert made is not None
        if trial.lake_is_remote:  # and nothing is left of those that were killed
            lakes = {each.lake_uri for each, _ in list_trials(self.settings)}
            found = objects(self.settings, self.settings.trials_uri)
            assert {uri[: uri.index("/", len(self.settings.trials_uri) + 1)] for uri in found} == lakes
        recorded = [row for row in ledger_records(trial) if (row.commit_version or 0) > made.tables["stage_ledger"]]
        stages = {row.stage for row in recorded}
        assert not stages & {"ingest", "features", "training_set", "train", "register"}  # these are read from the base
        assert "score" in stages
        assert served(trial) == self.truth
        assert [row.rows for row in recorded if row.stage == "score"] == [len(self.truth)]
        return recorded


def served(settings: Settings) -> dict[int, float]:
    """The answers of the settings' store for all customers that were scored."""
    with open_store(settings, "spend").snapshot() as snapshot:
        found = VersionAnswers(snapshot)
        found.refresh(time.time())
        keys = {customer: parse_key(snapshot.manifest.key, str(customer)) for customer in answers(settings)}
        return {customer: json.loads(found.one(key))["value"]["next_spend"] for customer, key in keys.items()}


def end(*processes: Any) -> None:
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def objects(settings: Settings, uri: str) -> dict[str, str]:
    """The tags of all objects below a prefix."""
    import obstore

    from forecache.base.folders import open_bucket

    pages = obstore.list(open_bucket(uri, settings.storage_options))
    return {f"{uri}/{item['path']}": f"{item['e_tag']} {item['last_modified']}" for page in pages for item in page}
