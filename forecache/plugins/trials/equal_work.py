"""Work that a trial has done from inputs that are equal to those of the environment that it defers to.

Texts of inputs name versions of tables and models. Up to those of the fork, equal numbers are equal versions. Above
them each side counts on its own: two versions are equal if they were made from equal inputs, and two states of a raw
table if the same files were ingested by the same code.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from forecache.base.errors import ForecacheError
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.base.table_names import FEATURES, RAW, TRAINING_SET
from forecache.declare import Source, Static
from forecache.declare.loading import read_project
from forecache.lake.features import STAGE as FEATURES_STAGE
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files
from forecache.lake.ledger import LEDGER_TABLE, StageRecord, last_record, records_after
from forecache.models.registry.model_versions import list_models
from forecache.plugins.trials.trial import Trial, list_trials

OTHER_WORK = "other work"
"""Said of inputs that differ in more than versions."""
_COMPARED_COMMITS = 32
"""Last commits to the ledger before a fork by which it is known; some only merge files."""
_HIDDEN = re.compile(r"(?:^| )(?:raw_\w+=|examples=)|_before@")
"""Beginnings of digests of files and versions: of days, of the features of past requests, of earlier snapshots."""
_VERSION = re.compile(r"(\w+)@(\d+)(?= |$)")


@dataclass(frozen=True)
class OtherSide:
    """A trial beside the environment that it defers to."""

    base: Settings
    trial: Settings
    made: Trial
    _files: dict[str, tuple[list[IngestedFile], list[IngestedFile]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        return f"the trial {self.trial.env}"

    def is_fork(self) -> bool:
        """Tell if the environment still has the work that was forked: a lake that was made anew, or restored, gives the
        same versions to other rows."""
        last = self.made.tables.get(LEDGER_TABLE, -1)
        ours, theirs = (
            {
                (row.commit_version, row.stage, row.subject, row.as_of, row.recorded_at)
                for row in records_after(settings, last - _COMPARED_COMMITS)
                if (row.commit_version or 0) <= last
            }
            for settings in (self.base, self.trial)
        )
        return ours == theirs

    def is_own(self, record: StageRecord) -> bool:
        """Tell if the trial did the work itself, after its fork."""
        return (record.commit_version or 0) > self.made.tables.get(LEDGER_TABLE, -1)

    def find_difference(self, theirs: str, ours: str, night: date | None) -> str:
        """The reason why inputs of the trial are not those of the environment; "" if they are equal.

        OTHER_WORK if more than versions differ.
        """
        if _VERSION.sub("", theirs) != _VERSION.sub("", ours):
            return OTHER_WORK
        for (name, there), (same_name, here) in zip(_VERSION.findall(theirs), _VERSION.findall(ours), strict=True):
            if name != same_name:
                return OTHER_WORK
            # `of` identifies a model that is not trained here, whatever its number.
            if not (" of=" in ours and f"model={name}@" in ours) and not self.are_equal(
                name, int(there), int(here), night
            ):
                return f"{name} is at {here} here, and was at {there} there"
        if _HIDDEN.search(ours) and not self._have_ingested_alike():
            return "other files were ingested here, and there, into versions of the same numbers"
        return ""

    def are_equal(self, name: str, there: int, here: int, night: date | None) -> bool:
        """Tell if a version of a table or a model is the same in the trial (`there`) and in the environment."""
        if there == here <= max(self.made.tables.get(name, -1), self.made.models.get(name, -1)):
            return True
        if name.startswith(RAW):
            return self._have_same_files(name, there, here, night)
        if name.startswith(FEATURES):
            return self._have_same_inputs(FEATURES_STAGE, name.removeprefix(FEATURES), there, here, night)
        if name.startswith(TRAINING_SET):
            return self._have_same_inputs("training_set", name.removeprefix(TRAINING_SET), there, here, None)
        return self._are_same_models(name, there, here)

    def _have_same_files(self, table: str, there: int, here: int, night: date | None) -> bool:
        """Tell if the rows up to a night came from the same files, none of which was ingested after the versions."""
        source = read_project(self.base).landed_sources.get(table.removeprefix(RAW))
        if source is None:
            return False
        sides = []
        for ingested, version in zip(self._read_files(source), (there, here), strict=True):
            files = [
                file
                for file in ingested
                if night is None or isinstance(source.time, Static) or not file.event_day or file.event_day <= night
            ]
            if any(file.raw_version > version for file in files):
                return False
            known = ((f.file, f.sha256, f.raw_rows, f.quarantined_rows, f.code_version) for f in files)
            sides.append(sorted(known))
        return sides[0] == sides[1]

    def _have_ingested_alike(self) -> bool:
        """Tell if the versions of raw tables after the fork have the same files as far as both sides have them."""
        for source in read_project(self.base).landed_sources.values():
            forked = self.made.tables.get(source.raw_table, -1)
            sides = [
                {(f.file, f.sha256, f.raw_rows, f.raw_version) for f in files} for files in self._read_files(source)
            ]
            last = min(max((version for *_, version in side), default=-1) for side in sides)
            ours, theirs = ({each for each in side if forked < each[-1] <= last} for side in sides)
            if ours != theirs:
                return False
        return True

    def _read_files(self, source: Source) -> tuple[list[IngestedFile], list[IngestedFile]]:
        """The files that the trial, and the environment, have ingested of a source; read once for all dates."""
        if source.name not in self._files:
            self._files[source.name] = ingested_files(self.trial, source), ingested_files(self.base, source)
        return self._files[source.name]

    def _have_same_inputs(self, stage: str, subject: str, there: int, here: int, night: date | None) -> bool:
        theirs, ours = (last_record(settings, stage, subject, night) for settings in (self.trial, self.base))
        if theirs is None or ours is None or (theirs.delta_version, ours.delta_version) != (there, here):
            return False
        return not self.find_difference(theirs.inputs, ours.inputs, night)

    def _are_same_models(self, name: str, there: int, here: int) -> bool:
        declared = read_project(self.base).trained_models.get(name)
        if declared is None:
            return False
        found = []
        for settings, number in ((self.trial, there), (self.base, here)):
            versions = (each for each in list_models(settings, declared) if each.version == number)
            found.append(next((each.tags.get("inputs", "") for each in versions), ""))
        theirs, ours = found
        return bool(theirs and ours) and not self.find_difference(theirs, ours, None)

    def renumber(self, theirs: str, ours: str) -> "dict[str, Numbers]":
        """By column of provenance, what its numbers of equal inputs are in the environment."""
        found: dict[str, Numbers] = {}
        for (name, there), (_, here) in zip(_VERSION.findall(theirs), _VERSION.findall(ours), strict=True):
            # A recommender's rows name the version of its interactions.
            column = "feature_version" if name.startswith((FEATURES, RAW)) else "model_version"
            shared = max(self.made.tables.get(name, -1), self.made.models.get(name, -1))
            found.setdefault(column, Numbers(shared, int(there), int(here)))
        return found


@dataclass(frozen=True)
class Numbers:
    """Numbers of a column of versions: up to `shared` those of the fork, and one that the trial made."""

    shared: int
    there: int
    here: int

    def differ(self, numbers: Iterable[int | None]) -> bool | None:
        """Tell if one of the trial's numbers is another one here; None if one is of a version that is not known."""
        above = {number for number in numbers if number is not None and number > self.shared}
        return None if above - {self.there} else bool(above) and self.there != self.here


def other_sides(settings: Settings, progress: Progress) -> list[OtherSide]:
    """The trials that defer to an environment, the newest first; none of a trial, nor if the note of one cannot be
    read."""
    if settings.base is not None:
        return []
    try:
        return [OtherSide(settings, trial, made) for trial, made in list_trials(settings)]
    except (ForecacheError, OSError) as error:
        progress(f"nothing is taken over from trials: {error}", None)
        return []
