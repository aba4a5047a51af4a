"""Copies of a stream's files of ids and tiles in a lake in a bucket, from which a machine with an empty disk starts.

<lake>/.state/streams/<name>/ids/LIST.json, <id>.ids   as in HOME/streams/<name>/ids
<lake>/.state/streams/<name>/tiles/<position>          the file TILES, named for its last row's position in the table

Nothing depends on them: a start checks them against the table as it checks those of its own disk, and reads from the
table what they lack. A list is copied after the files that it names, and before those are removed that it does not.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forecache.base.errors import DamagedError
from forecache.base.files import replace_file, write_durably
from forecache.base.settings import Settings
from forecache.base.steps import copy_step
from forecache.kit.lease import Lease
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import STREAM_FILES
from forecache.stream.dedup.id_folder import LIST
from forecache.stream.engine.restore_state import FILE
from forecache.stream.state import open_stream_state, stream_folder
from forecache.stream.tiles.tile_file import TileFile

logger = logging.getLogger("forecache.stream")
_SHARE = 20
"""Seconds between two copies for each second that one took: they use at most 5 % of the network."""
_TRIES = 3


class SavedFiles:
    """The files of one stream here and in the lake; the process holds the stream's lease."""

    def __init__(self, settings: Settings, name: str, lease: Lease) -> None:
        self._here, self._lease = stream_folder(settings.home_path, name), lease
        self._lake = open_stream_state(settings, name, patience_s=None)
        self._copied_list = b""
        self._copied_tiles = -1  # position of the tiles in the lake
        self._took_s = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds until the next copy."""
        return max(STREAM_FILES.every_s, _SHARE * self._took_s)

    def fetch(self) -> None:
        """Fetch the files from the lake that are newer than those here."""
        found = self._lake.read(f"ids/{LIST}")
        path = self._here / "ids" / LIST
        if found is not None and _position_of_ids(found[0]) > _position_of_ids(_read(path)):
            names = [file["name"] for file in json.loads(found[0])["files"]]
            for name in names:
                if not (self._here / "ids" / name).exists():
                    self._fetch(f"ids/{name}", self._here / "ids" / name)
            write_durably(path, found[0])
            self._copied_list = found[0]
            logger.info("%d files of ids were fetched from the lake.", len(names))
        self._copied_tiles = max(self._tiles_in_lake(), default=-1)
        path = self._here / "tiles" / FILE
        if self._copied_tiles > _position_of_tiles(path):
            self._fetch(_tiles_name(self._copied_tiles), path)
            logger.info("The tiles were fetched from the lake.")

    def copy(self) -> None:
        """Copy to the lake what has changed here since the last call."""
        began = time.monotonic()
        self._copy_ids()
        self._copy_tiles()
        self._took_s = time.monotonic() - began

    def _fetch(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary, temporary.open("wb") as file:
            for chunk in self._lake.chunks(name, 0):
                file.write(chunk)

    def _copy_ids(self) -> None:
        for attempt in range(_TRIES):
            content = _read(self._here / "ids" / LIST)
            if content in (b"", self._copied_list):
                return
            try:
                self._copy_list(content)
                return
            except FileNotFoundError:  # merged into another file since the list was read
                if attempt == _TRIES - 1:
                    raise

    def _copy_list(self, content: bytes) -> None:
        listed = {f"ids/{file['name']}" for file in json.loads(content)["files"]}
        there = set(self._lake.names("ids"))
        for name in sorted(listed - there):
            self._lease.check()
            self._lake.upload(self._here / name, name)
            copy_step("ids copied")
        self._lease.check()
        self._lake.write(f"ids/{LIST}", content)
        self._copied_list = content
        copy_step("list copied")
        self._lake.delete(sorted(there - listed - {f"ids/{LIST}"}))
        copy_step("ids removed")

    def _copy_tiles(self) -> None:
        path = self._here / "tiles" / FILE
        position = _position_of_tiles(path)
        if position in (-1, self._copied_tiles):
            return
        before = self._tiles_in_lake()
        self._lease.check()
        self._lake.upload(path, _tiles_name(position))
        self._copied_tiles = position
        copy_step("tiles copied")
        self._lake.delete([_tiles_name(each) for each in before if each != position])

    def _tiles_in_lake(self) -> list[int]:
        names = (name.removeprefix("tiles/") for name in self._lake.names("tiles"))
        return [int(name) for name in names if name.isdecimal()]


@contextmanager
def copy_saved_files(settings: Settings, name: str, lease: Lease) -> Iterator[None]:
    """Fetch the files of a stream, then copy them as they change, if the lake is in a bucket."""
    if not settings.lake_is_remote:
        yield
        return
    files = SavedFiles(settings, name, lease)

    def report(error: Exception) -> None:
        logger.warning("The files of ids and tiles of the stream %s are not in the lake: %s", name, error)

    try:
        files.fetch()
    except Exception as error:  # noqa: BLE001  # whatever it is, they can be made again from the table
        report(error)
    with PeriodicThread(STREAM_FILES, files.copy, every_s=lambda: files.pause_s, report=report):
        yield
    try:
        files.copy()
    except Exception as error:  # noqa: BLE001  # whatever it is, they can be made again from the table
        report(error)


def _read(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _position_of_ids(content: bytes) -> int:
    """The position in the table of the last row whose id a list has; -1 for none."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(content)["mark"]["position"])
    return -1


def _position_of_tiles(path: Path) -> int:
    """The position in the table of the last row that a file of tiles has; -1 if there is no such file."""
    with suppress(OSError, DamagedError, ValueError, KeyError, TypeError):
        return TileFile(path).of.mark.position
    return -1


def _tiles_name(position: int) -> str:
    return f"tiles/{position:020d}"
