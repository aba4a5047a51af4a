"""The journal of a search: a file of Optuna in the search's folder, and where all machines find it, a copy.

The copy is the truth, and only the holder of the search's lease writes it: after each trial that begins or ends, by
compare-and-swap. What a machine that is lost has not copied is done again, a trial from its last checkpoint.
"""

from pathlib import Path
from typing import Any

from forecache.base.files import write_durably
from forecache.base.folders import Folder
from forecache.base.steps import tune_step
from forecache.kit.lease import Lease, LeaseLostError

JOURNAL_FILE = "study.journal"


class SearchJournal:
    """The journal in a folder, and its copy in a folder that machines share; None: there is no copy."""

    def __init__(self, folder: Path, shared: Folder | None, lease: Lease) -> None:
        self.path = folder / JOURNAL_FILE
        self._shared, self._lease = shared, lease
        self._tag: Any = None

    def fetch(self) -> None:
        """Replace the journal here by the copy, if there is one."""
        found = self._shared.read(JOURNAL_FILE) if self._shared is not None else None
        if found is not None:
            write_durably(self.path, found[0])
            self._tag = found[1]

    def share(self) -> None:
        """Copy the journal; LeaseLostError if another machine has taken the search over."""
        if self._shared is None:
            return
        self._lease.ensure()
        content = self.path.read_bytes()
        content = content[: content.rfind(b"\n") + 1]  # a thread may be writing a line
        tag = self._shared.swap(JOURNAL_FILE, content, self._tag)
        if tag is None:
            found = self._shared.read(JOURNAL_FILE)
            if found is None or found[0] != content:  # else it is the answer that was lost
                raise LeaseLostError(
                    f"Another machine has changed the search in {self._shared}.",
                    remedy="It goes on there; run again to take its result.",
                )
            tag = found[1]
        self._tag = tag
        tune_step("journal shared")
