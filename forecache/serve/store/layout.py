"""Paths of a store's files.

<store>/<pipeline>/
    CURRENT                    the pointer: which version is served (replaced by rename)
    CURRENT.copy               its copy, written before it, read if the pointer is damaged or missing
    versions/00000017.json     a version's manifest, never changed
    versions/00000017.lease    held with a shared flock by every open snapshot of the version
    versions/00000017.bad      present if the version is quarantined; contains the reason
    segments/<segment id>/     LMDB files `000.mdb` ... (a base's with an index), a delta's `hashes.u64`; never changed
    filters/00000017-<hash>.bin  which delta segments may hold a key, for versions with delta segments
    staging/<name>/            a publish or pull in progress; garbage once its process has ended
    LOCK                       held with an exclusive flock by the publisher
    TARGETS                    held the same way while Redis or a remote is updated to the served version
    LIVE                       present if the store has a live layer: the stream, the key, the fields
    streamed/live.mdb          LMDB: the streamed rows, written by the tailer; `live.state` has its counters, mapped by
                               readers, and `live.lock` its writer
    streamed/pending.mdb       the same for rows that are computed and not yet committed, written by the stream
"""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StoreLayout:
    """Paths of one pipeline's store."""

    root: Path

    @property
    def pointer(self) -> Path:
        return self.root / "CURRENT"

    @property
    def pointer_copy(self) -> Path:
        return self.root / "CURRENT.copy"

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def targets(self) -> Path:
        return self.root / "TARGETS"

    @property
    def versions(self) -> Path:
        return self.root / "versions"

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

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    def manifest(self, version: int) -> Path:
        return self.versions / f"{version:08d}.json"

    def lease(self, version: int) -> Path:
        return self.versions / f"{version:08d}.lease"

    def quarantine(self, version: int) -> Path:
        return self.versions / f"{version:08d}.bad"

    def segment(self, segment_id: str) -> Path:
        return self.segments / segment_id

    def filter(self, file: str) -> Path:
        return self.filters / file

    def version_numbers(self) -> list[int]:
        """Versions that have a manifest, ascending."""
        if not self.versions.is_dir():
            return []
        return sorted(int(path.stem) for path in self.versions.glob("[0-9]*.json"))

    def create(self) -> None:
        for folder in (self.versions, self.segments, self.filters, self.staging):
            folder.mkdir(parents=True, exist_ok=True)


def shard_file(index: int) -> str:
    """Name of a segment's LMDB file."""
    return f"{index:03d}.mdb"


HASHES_FILE = "hashes.u64"


def remove_tree(path: Path) -> None:
    """Remove a folder that is not in use; a missing one is fine."""
    shutil.rmtree(path, ignore_errors=not path.exists())
