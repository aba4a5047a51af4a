"""Prediction tables in a lake of the benchmark's own: whole nights, and keys that are scored again within a night."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from _store import rows
from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.dataset import open_dataset

TABLE = rows.pipeline().prediction_table


class Lake:
    """A home folder with one prediction table, and how often each key was scored.

    Attributes:
        stamps: uint16 [keys], the stamp of every key in the newest night.
        night: The newest night.
    """

    def __init__(self, home: Path, num_keys: int) -> None:
        self.settings: Settings = load_settings(home=home)
        self.home = home
        self.num_keys = num_keys
        self.stamps = np.zeros(num_keys, np.uint16)
        self.night = rows.FIRST_NIGHT
        self.runs = 0

    @property
    def uri(self) -> str:
        return self.settings.table_uri(TABLE)

    def create(self) -> None:
        """Write the first night, in place of whatever the folder holds."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self._write_night()

    def _write_night(self) -> None:
        write_deltalake(
            self.uri,
            pa.RecordBatchReader.from_batches(rows.SCHEMA, rows.night_batches(self.stamps, self.night)),
            partition_by=["as_of"],
            mode="append",
            configuration={"delta.enableChangeDataFeed": "true"},
        )

    def next_night(self, changed: int, rng: np.random.Generator) -> np.ndarray:
        """Write the next night: every key again, `changed` of them with other values; the changed keys."""
        picked = self._pick(changed, rng)
        self.night = self.night + timedelta(days=1)
        self._write_night()
        return picked

    def rescore(self, changed: int, rng: np.random.Generator) -> np.ndarray:
        """Score `changed` keys of the newest night again (a MERGE, as a late correction does); the changed keys."""
        picked = self._pick(changed, rng)
        self.runs += 1
        source = rows.table(picked, self.stamps[picked], self.night, run=self.runs)
        table = DeltaTable(self.uri)
        merge = table.merge(
            source,
            f"target.as_of = DATE '{self.night}' AND target.{rows.KEY} = source.{rows.KEY}",
            source_alias="source",
            target_alias="target",
        )
        merge.when_matched_update_all().execute()
        return picked

    def _pick(self, changed: int, rng: np.random.Generator) -> np.ndarray:
        picked = np.sort(rng.choice(self.num_keys, changed, replace=False))
        self.stamps[picked] += 1
        return picked

    def num_rows(self, night: date) -> int:
        return int(open_dataset(DeltaTable(self.uri), partitions=[("as_of", "=", str(night))]).count_rows())


class Curtain:
    """Hides a table's later commits and reveals them one by one, so that they cost nothing while load is measured."""

    def __init__(self, table_uri: str, first_hidden: int) -> None:
        self._log = Path(table_uri) / "_delta_log"
        self._aside = Path(table_uri).parent / f"{Path(table_uri).name}-later-commits"
        self._aside.mkdir(exist_ok=True)
        self._first = first_hidden

    def _commits(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.glob("*.json") if int(path.stem) >= self._first)

    def hide(self) -> int:
        """Hide all commits from the first hidden one on; how many are hidden now."""
        for path in self._commits(self._log):
            path.rename(self._aside / path.name)
        return len(self._commits(self._aside))

    def reveal(self) -> None:
        """Reveal the next commit."""
        path = self._commits(self._aside)[0]
        path.rename(self._log / path.name)
