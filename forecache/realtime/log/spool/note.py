"""The note of a writer in its stream's lock file: who it is, and how many rows it lost.

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
    """The note of a writer.

    Attributes:
        lost: Rows lost since the writer began, by reason, including those of a killed writer before it.
    """

    replica: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)


def write_note(descriptor: int, note: Note) -> None:
    """Overwrite the note in an open lock file; a partly written note is read as an empty one."""
    text = json.dumps({"replica": note.replica[:200], "lost": dict(note.lost)}).encode()
    os.pwrite(descriptor, text.ljust(_BYTES), 0)


def read_note(file: Path) -> Note:
    """Read the note in a lock file; an empty one if the file is missing or incomplete."""
    try:
        return Note(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return Note()
