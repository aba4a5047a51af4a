"""What the processes of one reader share: a runtime folder with the draining flag, the counters, the rate limits."""

import mmap
import os
import shutil
import tempfile
from pathlib import Path

_STATE = "state"


class Runtime:
    """The runtime folder of one reader; every process of the reader opens it for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = self.shared(_STATE, 8)

    @classmethod
    def create(cls) -> "Runtime":
        """A new folder, under the system's folder for temporary files (TMPDIR), for the owner alone."""
        return cls(Path(tempfile.mkdtemp(prefix="forecache-reader-")))

    def shared(self, name: str, size_bytes: int) -> mmap.mmap:
        """A file of the folder mapped for reading and writing, zeroed where it is new."""
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
            return mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)

    @property
    def draining(self) -> bool:
        """Whether the reader has been told to stop: it still answers, and readiness says no."""
        return self._state[0] != 0

    def drain(self) -> None:
        self._state[0] = 1

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
