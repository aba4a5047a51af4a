"""Work that writes: a mode in which a process only looks for it, and its named steps, after which tests can kill it."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Look:
    """A look for work: whether there is some, and what was read in it."""

    def __init__(self, found: dict[Hashable, Any]) -> None:
        self.has_work = False
        self.found = found


_look: _Look | None = None
"""The look under way in this process; None while it works."""


class WorkNeeded(BaseException):
    """Raised in place of work by a process that only looks; like an interrupt, it is no `Exception` to be handled.

    `stale` has what is to be done, if the work is a stage's.
    """

    def __init__(self, what: str, stale: Any = None) -> None:
        super().__init__(what)
        self.stale = stale


@contextmanager
def only_look(found: Mapping[Hashable, Any] | None = None) -> Iterator[Callable[[], bool]]:
    """Let nothing in this process write during the block: whatever would raises `WorkNeeded` instead.

    Locks are not taken, as nothing is changed. Yields a function that tells if anything would have been written, also
    if its `WorkNeeded` was raised in a thread that nobody waits for. Looks within another one share what is read;
    `found` is what a look of another process has read.
    """
    global _look
    outer = _look
    _look = look = _Look(dict(found or {}) if outer is None else outer.found)
    try:
        yield lambda: look.has_work
    finally:
        _look = outer


def is_looking() -> bool:
    """Tell if this process only looks for work."""
    return _look is not None


def look_once(key: Hashable, read: Callable[[], _T]) -> _T:
    """Return what `read` returns; in a process that only looks, what it returned at the look's first call."""
    if _look is None:
        return read()
    known = _look.found
    if key not in known:
        known[key] = read()
    found: _T = known[key]
    return found


def list_found(*kinds: str) -> dict[Hashable, Any]:
    """Return what this look has read or assumed under keys that begin with one of the kinds, for another process."""
    known = {} if _look is None else _look.found
    return {key: value for key, value in known.items() if isinstance(key, tuple) and key[0] in kinds}


def begin_work(what: str, *, stale: Any = None) -> None:
    """Go on to write something; raises `WorkNeeded`, with `stale`, in a process that only looks."""
    if _look is not None:
        _look.has_work = True
        raise WorkNeeded(what, stale)


class Steps:
    """Called with the name of each step just after it is done; `on_step`, which only tests set, gets each name."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.on_step: Callable[[str], None] | None = None

    def __call__(self, name: str) -> None:
        assert name in self.names, name
        if self.on_step is not None:
            self.on_step(name)


COMMIT_STEPS = ("file written", "staged", "checked", "decided", "committed", "recorded")
"""From a table's first new data file to the ledger's row."""

lake_step = Steps(*COMMIT_STEPS, "file removed")

extract_step = Steps("batch extracted", "file landed")

MERGE_STEPS = ("merged", "merged base moved", "merged base verified")
"""Steps only of a publish that merges base and deltas into a new base."""

publish_step = Steps(
    *("locked", "stream read", "cleaned", "encoded", "built", "segments moved", "verified"),
    *MERGE_STEPS,
    *("manifest written", "pointer moved", "retired"),
)

push_step = Steps("remote read", "uploaded", "manifest created", "pointer moved")
"""Steps of a change of a store in its remote, from reading its state there to moving its pointer, before it is made
here and retired versions are removed there."""

CONTRACT_STEPS = ("definition kept", "linked", "handed over")
"""Steps of a contract of a view that another one is about to replace, up to its own store with its last version."""

FEATURE_STEPS = ("earlier features built",)
"""Steps of a pipeline whose champion scores the features of its training."""

RETIRED_STEPS = ("store hidden", "store removed", "tables removed", "definition removed")

contract_step = Steps(*CONTRACT_STEPS, *FEATURE_STEPS, *RETIRED_STEPS)

rollback_step = Steps(
    *("planned", "begun", "champion moved", "model marked", "pointer moved"),
    *("targets synced", "recorded"),
)

PULL_STEPS = ("locked", "staged", "moved", "pointer moved", "retired")
RELEASE_STEPS = ("locked", "numbered", "staged", "moved", "uploaded", "added")
"""Steps of a release: it gets a number from the lake, its files are written, then the state has it."""

STATE_STEPS = ("state moved", "pointer moved", "copied", "retired")
"""Steps of a state that moves: in the lake, then the copy here, of the pointer and of the rollout."""

release_step = Steps(*dict.fromkeys((*RELEASE_STEPS, *PULL_STEPS, *STATE_STEPS)), "set aside", "kept to be sent")
"""A release is set aside only if a pull replaces it by another one of the same number. A change that the lake does not
have yet is kept to be sent."""

LOG_STEPS = ("frames written", "segment closed", "rows written", "rows committed", "counted", "segment removed")
"""From an answer's bytes in the spool to its row in the lake."""

log_step = Steps(*LOG_STEPS)
rollout_step = Steps("counted", "notified")
"""Steps of the rollout controller, before and after those of a state that moves."""

STREAM_STEPS = (
    *("judged", "pending written", "bad messages sent", "bad messages committed"),
    *("rows written", "rows committed", "confirmed"),
)
"""From a message of a topic to its row, or to the quarantine."""

stream_step = Steps(*STREAM_STEPS)

ids_step = Steps("ids written", "list saved", "ids merged")
"""Steps for the files of event ids of a stream: a file written, the list of files replaced, files merged into one."""

tiles_step = Steps("tiles read", "tiles written", "tiles replaced")
"""Steps for the file of a stream's tiles: tiles of the views read, new file written, old file replaced."""

copy_step = Steps("ids copied", "list copied", "ids removed", "tiles copied")
"""Steps of copying these files into a lake in a bucket."""

tail_step = Steps("commit read", "applied", "caught up", "rows read", "replaced", "pruned", "verified")
"""Steps of a tailer: a commit of the stream's table read and applied; after a gap, rows read from the table; a layer
rebuilt; rows removed that no version needs; the layer compared and equal to the table."""

topic_step = Steps("produced", "flushed", "sent")
"""Steps of sending answers to a topic: a message, all messages of a transaction before its commit, the commit."""

mail_step = Steps("begun", "intended", "at the last byte", "sent", "answered", "noted", "recorded")
"""Steps of a mailing's message or its batch."""
training_step = Steps("result written", "files shared", "result shared")
"""From the result in the run's folder to the list of its files where all machines find it."""

tune_step = Steps("trial begun", "trial ended", "journal shared")

TRY_STEPS = ("locked", "ledger forked", "table forked", "models forked", "noted", "forked", "chosen", "ran")
"""Steps of a trial: the fork of what it defers to, in a draft until it is whole, and the run in it."""

try_step = Steps(*TRY_STEPS)
