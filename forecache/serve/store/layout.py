"""Paths of a store's files, and the lock for updating Redis.

<store>/<pipeline>/            a versioned folder (see `forecache.kit.versioned.folder`) with:
    versions/00000017.json     a version's manifest, never changed
    versions/00000017.lease    missing if only the manifest is here, and the files are in the remote
    segments/<segment id>/     LMDB files `000.mdb` ... (a base's with an index), a delta's `hashes.u64`; never changed
    TARGETS                    held with an exclusive flock while Redis is updated to the served version
    filters/00000017-<hash>.bin  which delta segments may hold a key, for versions with delta segments
    staging/<name>/            a publish or pull in progress; garbage once its process has ended
    LIVE                       present if the store has a live layer: the stream, the key, the fields
    streamed/live.mdb          LMDB: the streamed rows, written by the tailer; `live.state` has its counters, mapped by
                               readers, and `live.lock` its writer
    streamed/pending.mdb       the same for rows that are computed and not yet committed, written by the stream
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from forecache.base.files import lock
from forecache.base.results import Progress
from forecache.kit.versioned.folder import PathBelow, VersionedFolder
from forecache.serve.store.pointer import Pointer

REALTIME = ".realtime"
"""The folder of releases of real-time models, beside the stores, whose names begin with a letter."""
_UNFINISHED_S = 3600.0


@dataclass(frozen=True)
class StoreLayout(VersionedFolder[Pointer]):
    pointer_type = Pointer
    locked_text = "The store of {name} is being changed by {holder}."
    pointer_text = "The pointer of {name}"
    pointer_remedy = (
        "Remove the pipeline's store folder and publish again; on a replica, `forecache store pull --verify`."
    )

    targets = PathBelow("TARGETS")
    segments = PathBelow("segments")
    filters = PathBelow("filters")
    live = PathBelow("LIVE")
    streamed_folder = PathBelow("streamed")

    def manifest(self, version: int) -> Path:
        return self.versions / f"{version:08d}.json"

    def segment(self, segment_id: str) -> Path:
        return self.segments / segment_id

    @property
    def version_mark(self) -> Path:
        """A file that is there from the pull of a live layer until that of the version it belongs to has ended."""
        return self.staging / "awaits-version"

    def partial_segment(self, segment_id: str) -> Path:
        """The folder of what is here of a segment that is being fetched."""
        return self.staging / f"pull-{segment_id}"

    def has_segment(self, segment_id: str) -> bool:
        return self.segment(segment_id).exists()

    def filter(self, file: str) -> Path:
        return self.filters / file

    def numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.versions.glob("[0-9]*.json"))

    def has_version(self, number: int) -> bool:
        return self.manifest(number).exists()

    def is_blocked(self, number: int, pointer: Pointer) -> bool:
        return str(number) in pointer.bad

    def has_files(self, number: int) -> bool:
        """Return whether the files of a version are here, and not only its manifest."""
        return self.lease(number).exists()

    def remove_version(self, number: int) -> None:
        for path in (self.manifest(number), self.lease(number)):
            path.unlink(missing_ok=True)

    def create(self) -> None:
        super().create()
        for folder in (self.segments, self.filters):
            folder.mkdir(exist_ok=True)


def shard_file(index: int) -> str:
    return f"{index:03d}.mdb"


HASHES_FILE = "hashes.u64"


def remove_tree(path: Path) -> None:
    """Remove a folder that is not in use; a missing one is fine."""
    shutil.rmtree(path, ignore_errors=not path.exists())


def remove_if_abandoned(path: Path) -> None:
    """Remove a temporary file, unless it is so young that a running process may be about to finish it."""
    with suppress(FileNotFoundError):  # its writer has just finished it
        if time.time() - path.stat().st_mtime > _UNFINISHED_S:
            path.unlink()


@contextmanager
def targets_lock(layout: StoreLayout, progress: Progress) -> Iterator[None]:
    """Hold the lock for updating Redis from the store; other processes wait for it.

    The served version is read under the lock. So a slower process neither overwrites a newer version with an older one,
    nor removes one that is about to be served.
    """

    def report_waiting(holder: str) -> None:
        progress(f"Waiting for {holder}, which brings {layout.name} to other places", None)

    with lock(layout.targets, holder=f"process {os.getpid()}", waiting=report_waiting):
        yield
