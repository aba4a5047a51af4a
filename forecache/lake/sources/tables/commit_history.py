"""The commit history of an existing Delta table: the time of each version, and whether it changed rows."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.fs

from forecache.kit.delta.files import Place
from forecache.kit.delta.log import read_entry

_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")
_READ_AT_ONCE = 16
_UPKEEP = ("OPTIMIZE", "REORG", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES",
           "ADD CONSTRAINT", "DROP CONSTRAINT", "UPGRADE PROTOCOL", "CLUSTER BY", "COMPUTE STATS")  # fmt: skip
"""Operations that change no rows, whatever files they rewrite."""


@dataclass(frozen=True)
class TableCommit:
    """A version of a table.

    Attributes:
        at: With time zone: the commit's own time, or else the time of the log's entry.
        delivers: It wrote a state, perhaps the same again; false for upkeep such as OPTIMIZE.
        marks_rows: It marked rows of remaining files as deleted.
    """

    version: int
    at: datetime
    delivers: bool
    marks_rows: bool


def read_commits(place: Place, version: int) -> list[TableCommit]:
    """Read the versions up to one whose entries the log still has, ascending.

    delta-rs's history is not used: it numbers commits backwards from the newest, which is wrong if a commit has no
    commitInfo or if others commit meanwhile.

    Raises:
        OSError: The object store does not answer.
        DamagedError: An entry is not valid.
    """
    filesystem, table = place.open(), place.uri.rstrip("/").rpartition("/")[2]
    found = filesystem.get_file_info(pa.fs.FileSelector("_delta_log"))
    entries = [(int(match[1]), info) for info in found if (match := _ENTRY.fullmatch(info.path))]
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="forecache-commits") as threads:
        known = sorted((entry for entry in entries if entry[0] <= version), key=itemgetter(0))
        commits = threads.map(lambda entry: _read_commit(filesystem, table, *entry), known)
        return [commit for commit in commits if commit is not None]


def _read_commit(filesystem: Any, table: str, version: int, info: Any) -> TableCommit | None:
    """Read a version; None if its entry was removed from the log since that was listed, as the oldest ones are."""
    try:
        actions = read_entry(filesystem, version, table)
    except FileNotFoundError:
        return None
    told: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    files = [action.get("add") or action.get("remove") for action in actions]
    changed = [file for file in files if file and file.get("dataChange", True)]
    at = told.get("inCommitTimestamp") or told.get("timestamp")
    return TableCommit(
        version,
        datetime.fromtimestamp(at / 1000, timezone.utc) if at else info.mtime,
        delivers=told.get("operation") not in _UPKEEP and (bool(changed) or not any(files)),
        marks_rows=any(file.get("deletionVector") for file in changed),
    )
