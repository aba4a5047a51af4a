"""The landing zone: its files, the days in their names, and their bytes."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from forecache.base.settings import Settings
from forecache.base.steps import is_looking, look_once
from forecache.declare import Source
from forecache.kit.delta.files import list_entries
from forecache.lake.ingest.row_count import checksum

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


@dataclass(frozen=True)
class LandingFile:
    """One file of a source; `day` is None if its name has none."""

    name: str
    day: date | None
    size_bytes: int
    modified_at: datetime


_checksums: dict[tuple[str, LandingFile], str] = {}


def open_file_system(uri: str, storage_options: dict[str, str]) -> "FileSystem":
    """Open an Arrow file system rooted at a folder or object store URI, through delta-rs's object store."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow import fs

    return fs.PyFileSystem(DeltaStorageHandler(uri, storage_options or None))


def source_uri(settings: Settings, source: Source) -> str:
    return f"{settings.landing_uri}/{source.name}"


def list_landing(settings: Settings, source: Source) -> list[LandingFile]:
    """List the source's files by name, without those that start with "." or "_": unfinished files or markers."""
    return look_once(("landing", settings.landing_uri, source.name), lambda: _list_landing(settings, source))


def _list_landing(settings: Settings, source: Source) -> list[LandingFile]:
    from pyarrow import fs

    uri = source_uri(settings, source)
    if "://" not in uri and is_looking() and not Path(uri).is_dir():
        return []
    if "://" not in uri:
        Path(uri).mkdir(parents=True, exist_ok=True)
    found = list_entries(open_file_system(uri, settings.storage_options), "", recursive=True)
    files = [
        LandingFile(info.path, file_day(source, info.path), info.size, info.mtime)
        for info in found
        if info.type == fs.FileType.File and not info.base_name.startswith((".", "_"))
    ]
    return sorted(files, key=lambda file: file.name)


def file_day(source: Source, name: str) -> date | None:
    """The day in a file's name; None if it has none, or one outside the source's dates."""
    match = re.search(source.file_pattern + r"$", name)
    try:
        day = date.fromisoformat(match["day"]) if match else None
    except ValueError:
        return None
    if day is None or day < source.start or (source.end and day > source.end):
        return None
    return day


@contextmanager
def open_landing(uri: str, storage_options: dict[str, str], name: str) -> Iterator[BinaryIO]:
    """Open a landing file, seekable; one of an object store is first copied to an unnamed temporary file."""
    if "://" not in uri:
        with (Path(uri) / name).open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as copy:
        with open_file_system(uri, storage_options).open_input_stream(name) as remote:
            shutil.copyfileobj(remote, copy, 1 << 20)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def read_checksum(settings: Settings, source: Source, name: str) -> str:
    """SHA-256 of a landing file's bytes."""
    with open_landing(source_uri(settings, source), settings.storage_options, name) as stream:
        return checksum(stream)


def cached_checksum(settings: Settings, source: Source, file: LandingFile) -> str:
    """`read_checksum`, cached in the process while size and time stay the same: a sensor calls it every minute."""
    key = (source_uri(settings, source), file)
    if key not in _checksums:
        _checksums[key] = read_checksum(settings, source, file.name)
    return _checksums[key]
