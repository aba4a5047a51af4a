"""Blocks of a remote file: each is verified alone, so that a part of a version can be read before the rest is here.

A file with blocks ends with the XXH3-64 of each block of what is before, little-endian; whoever describes the file has
the XXH3-128 of these checksums (`sums`).
"""

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import xxhash

from forecache.base.errors import CheckError, NotFoundError
from forecache.base.folders import Folder
from forecache.kit.versioned.verify import FileInfo

BLOCK_BYTES = 1 << 14
SUMS = -1
"""Takes the place of a block's number for the checksums of the blocks."""
_SUM_BYTES = 8
_RUN_BLOCKS = 256  # most blocks of a request: four megabytes
_TRIES = 2
_REQUESTS = 16  # side by side, of what somebody waits for
_REQUESTS_OF_REST = 2  # of each file, so that the line does not stand still while an answer is on its way


class BlockFileInfo(FileInfo, Protocol):
    """A file of a version that ends with the checksums of its blocks."""

    @property
    def sums(self) -> str: ...


def append_block_sums(path: Path) -> str:
    """Append the checksums of a file's blocks; returns their own checksum."""
    with open(path, "r+b") as file:
        sums = b"".join(map(_sum_of, iter(lambda: file.read(BLOCK_BYTES), b"")))
        file.write(sums)
    return xxhash.xxh3_128_hexdigest(sums)


def _sum_of(block: bytes | memoryview) -> bytes:
    return xxhash.xxh3_64_intdigest(block).to_bytes(_SUM_BYTES, "little")


class BlockFile:
    """A remote file of which blocks are fetched and verified when they are needed, and kept in a sparse file here.

    Threads and processes may use the same sparse file: each verifies a block before it first uses it, and fetches it if
    it is not there, or not whole.

    Raises NotFoundError if the remote has no such file (any more), CheckError for a block that is not what was written,
    and errors of the remote's client.
    """

    def __init__(self, remote: Folder, name: str, info: BlockFileInfo, path: Path) -> None:
        self.name = name
        self._remote, self._info = remote, info
        count = -(-info.size_bytes // (BLOCK_BYTES + _SUM_BYTES))
        self._end = info.size_bytes - count * _SUM_BYTES
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(self._file, info.size_bytes)
            self._map = mmap.mmap(self._file, info.size_bytes, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self._file)
            raise
        self._view = memoryview(self._map)
        self._verified = bytearray(count)
        self._sums = b""
        self._lock, self._is_closed = threading.Lock(), False  # a late answer must not be written to another file

    def close(self) -> None:
        """Give up the sparse file; views of it stay valid."""
        with self._lock:
            self._is_closed = True
            os.close(self._file)

    def find_missing(self, start: int, end: int) -> list[int]:
        """The blocks of a range of bytes that are not here yet.

        As long as the checksums are not here, `SUMS`, and the block if it is one: it is verified once they are.
        """
        numbers = range(start // BLOCK_BYTES, -(-min(end, self._end) // BLOCK_BYTES))
        if not self._sums:
            sums = bytes(self._view[self._end :])
            if not self._are_sums(sums):
                return [SUMS, *(numbers if len(numbers) == 1 else ())]
            self._sums = sums
        return [number for number in numbers if not self._verified[number] and not self._verify(number)]

    def _are_sums(self, content: bytes) -> bool:
        return xxhash.xxh3_128_hexdigest(content) == self._info.sums

    def view(self, start: int, end: int) -> memoryview:
        """A range of bytes whose blocks are here."""
        return self._view[start:end]

    def fetch_rest(self) -> int:
        """Fetch all that is not here; returns the bytes that were fetched."""
        fetched = 0
        with ThreadPoolExecutor(_REQUESTS_OF_REST) as threads:
            while missing := self.find_missing(0, self._end):
                fetched += sum(threads.map(lambda run: self.fetch_run(*run), _runs(missing)))
        return fetched

    def fetch_run(self, first: int, last: int) -> int:
        """Fetch adjacent blocks, or the checksums; returns their bytes."""
        if first == SUMS:
            return len(self._fetch(self._end, self._info.size_bytes, self._are_sums))
        start, end = first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, self._end)
        sums = self._sums[first * _SUM_BYTES : (last + 1) * _SUM_BYTES]
        return len(self._fetch(start, end, lambda content: not sums or _sums_of(content) == sums))

    def _fetch(self, start: int, end: int, is_whole: Callable[[bytes], bool]) -> bytes:
        for _ in range(_TRIES):
            try:
                content = self._remote.read_range(self.name, start, end - start)
            except FileNotFoundError:
                raise missing_file_error(self.name) from None
            if is_whole(content):
                with self._lock:
                    if not self._is_closed:
                        os.pwrite(self._file, content, start)
                return content
        raise wrong_checksum_error(self.name)

    def _verify(self, number: int) -> bool:
        start = number * BLOCK_BYTES
        block = self._view[start : min(start + BLOCK_BYTES, self._end)]
        is_whole = _sum_of(block) == self._sums[number * _SUM_BYTES : (number + 1) * _SUM_BYTES]
        self._verified[number] = is_whole
        return is_whole


def fetch_wanted(wanted: Iterable[tuple[BlockFile, set[int]]]) -> None:
    """Fetch missing blocks of several files, in requests side by side."""
    runs = [(file, *run) for file, numbers in wanted for run in _runs(sorted(numbers))]
    if len(runs) == 1:
        file, first, last = runs[0]
        file.fetch_run(first, last)
    elif runs:
        with ThreadPoolExecutor(min(len(runs), _REQUESTS)) as threads:
            list(threads.map(lambda run: run[0].fetch_run(*run[1:]), runs))


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of adjacent numbers, which are ascending; SUMS is a run of its own."""
    if numbers[:1] == [SUMS]:
        yield SUMS, SUMS
        numbers = numbers[1:]
    start = 0
    for place in range(1, len(numbers) + 1):
        is_end = place == len(numbers) or numbers[place] != numbers[place - 1] + 1
        if is_end or place - start == _RUN_BLOCKS:
            yield numbers[start], numbers[place - 1]
            start = place


def _sums_of(content: bytes) -> bytes:
    view = memoryview(content)
    return b"".join(_sum_of(view[start : start + BLOCK_BYTES]) for start in range(0, len(view), BLOCK_BYTES))


def missing_file_error(name: str) -> NotFoundError:
    return NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")


def wrong_checksum_error(name: str) -> CheckError:
    return CheckError(
        f"The file {name} does not have the checksum that the manifest says.",
        remedy="What is served is unchanged. Pull again; if it repeats, publish a full version.",
    )
