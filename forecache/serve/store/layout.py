"""Paths of a store's files.

<store>/<pipeline>/            a versioned folder (see `forecache.kit.versioned.folder`) with:
    versions/00000017.json     a version's manifest, never changed
    versions/00000017.bad      present if the version is quarantined; contains the reason
    segments/<segment id>/     LMDB files `000.mdb` ... (a base's with an index), a delta's `hashes.u64`; never changed
    TARGETS                    held with an exclusive flock while Redis or a remote is updated to the served version
    filters/00000017-<hash>.bin  which delta segments may hold a key, for versions with delta segments
    staging/<name>/            a publish or pull in progress; garbage once its process has ended
    LIVE                       present if the store has a live layer: the stream, the key, the fields
    streamed/live.mdb          LMDB: the streamed rows, written by the tailer; `live.state` has its counters, mapped by
                               readers, and `live.lock` its writer
    streamed/pending.mdb       the same for rows that are computed and not yet committed, written by the stream
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from forecache.kit.versioned.folder import VersionedFolder
from forecache.serve.store.pointer import Pointer


@dataclass(frozen=True)
class StoreLayout(VersionedFolder[Pointer]):
    """Paths of one pipeline's store."""

    pointer_type = Pointer
    locked_text = "The store of {name} is being changed by {holder}."
    pointer_text = "The pointer of {name}"
    pointer_remedy = "Remove the pipeline's store folder and publish again; on a replica, `forecache pull --verify`."

    @property
    def targets(self) -> Path:
        return self.root / "TARGETS"

    @property
    def segments(self) -> Path:
        return self.root / "segments"

    @property
    def filters(self) -> Path:
        return self.root / "filters"

    @property
    def live(self) -> Path:
        return self.root / "LIVE"

    @property
    def streamed_folder(self) -> Path:
        return self.root / "streamed"

    def manifest(self, version: int) -> Path:
        return self.versions / f"{version:08d}.json"

    def quarantine(self, version: int) -> Path:
        return self.versions / f"{version:08d}.bad"

    def segment(self, segment_id: str) -> Path:
        return self.segments / segment_id

    def filter(self, file: str) -> Path:
        return self.filters / file

    def numbers(self) -> list[int]:
        if not self.versions.is_dir():
            return []
        return sorted(int(path.stem) for path in self.versions.glob("[0-9]*.json"))

    def has_version(self, number: int) -> bool:
        return self.manifest(number).exists()

    def is_quarantined(self, number: int, pointer: Pointer) -> bool:
        return self.quarantine(number).exists()

    def remove_version(self, number: int) -> None:
        for path in (self.manifest(number), self.quarantine(number), self.lease(number)):
            path.unlink(missing_ok=True)

    def create(self) -> None:
        super().create()
        for folder in (self.segments, self.filters):
            folder.mkdir(exist_ok=True)


def shard_file(index: int) -> str:
    """Name of a segment's LMDB file."""
    return f"{index:03d}.mdb"


HASHES_FILE = "hashes.u64"


def remove_tree(path: Path) -> None:
    """Remove a folder that is not in use; a missing one is fine."""
    shutil.rmtree(path, ignore_errors=not path.exists())
