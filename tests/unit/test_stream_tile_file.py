"""The file of a stream's tiles: it gives what was written, or says that its bytes are others."""

from contextlib import closing
from pathlib import Path

import pytest

from forecache.base.errors import DamagedError
from forecache.stream.table.rows import TableCursor
from forecache.stream.tiles.tile_file import TileFile, TileFileInfo, TileWriter

OF = TileFileInfo("declared", TableCursor(7, 3, 0, 41, 1_700_000_000_000_000), 99, {"customer": 20_000, "shop": -1})
PARTS = [
    ("customer", [b"1", b"", b"a longer key"], [b"12345678", b"", b"x" * 40]),
    ("shop", [b"s"], [b"12345678"]),
    ("shop", [], []),
    ("customer", [b"1"], [b"87654321"]),
]


def written(path: Path) -> Path:
    path.touch()
    with closing(TileWriter(path, ["customer", "shop"])) as writer:
        for part in PARTS:
            writer.add(*part)
        writer.end(OF)
    return path


def test_a_file_gives_what_was_written(tmp_path: Path) -> None:
    file = TileFile(written(tmp_path / "TILES"))
    assert file.of == OF
    assert list(file.parts()) == PARTS


def test_a_byte_that_changed_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    content = written(tmp_path / "TILES").read_bytes()
    path = tmp_path / "damaged"
    for place in range(len(content)):
        for changed in (content[place] ^ 1, content[place] ^ 0xFF):
            path.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
            with pytest.raises(DamagedError):
                TileFile(path)


def test_a_file_that_is_too_short_or_too_long_is_noticed(tmp_path: Path) -> None:
    content = written(tmp_path / "TILES").read_bytes()
    path = tmp_path / "torn"
    for torn in (*(content[:size] for size in range(len(content))), content + b"\0", b"\0" * len(content)):
        path.write_bytes(torn)
        with pytest.raises(DamagedError):
            TileFile(path)
    with pytest.raises(FileNotFoundError):
        TileFile(tmp_path / "none")
