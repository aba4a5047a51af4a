"""What a writer says in its stream's lock file: who it is, and how many rows it lost.

The file has one size from the beginning, so that it is written again on a full disk too.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BYTES = 512


@dataclass(frozen=True)
class Note:
    """
    Attributes:
        lost: By the reason, the rows lost since the writer began, with those of the one before it that was killed.
    """

    replica: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)


def write_note(descriptor: int, note: Note) -> None:
    """Replace what an open lock file says; a reader may see half of it, and takes that for nothing."""
    text = json.dumps({"replica": note.replica[:200], "lost": dict(note.lost)}).encode()
    os.pwrite(descriptor, text.ljust(_BYTES), 0)


def read_note(file: Path) -> Note:
    """What a lock file says; nothing where it is not there or not whole."""
    try:
        return Note(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return Note()
