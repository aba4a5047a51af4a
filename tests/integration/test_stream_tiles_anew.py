"""A file of tiles that is not of this stream, table or night, or damaged, is left alone: all tiles are made anew."""

import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from stream_sample import CUSTOMER
from tile_machine import NIGHT, SHOP, STREAM, VALUES, Machine, from_rows, payments_stream, took_in

from forecache.base.settings import Settings, load_settings
from forecache.declare import Live
from forecache.kit.delta.log import open_if_exists


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", lake=str(tmp_path / "lake"))


def restored_from_a_copy(settings: Settings) -> None:
    table = Path(open_if_exists(settings, STREAM.table).table_uri.removeprefix("file://"))
    copy = settings.home_path / "copy"
    if not copy.exists():
        shutil.copytree(table, copy)
        took_in(settings, 150)
    shutil.rmtree(table)
    shutil.copytree(copy, table)


def rolled_back(settings: Settings) -> None:
    """The table is as it was before, by a commit of its own."""
    table = open_if_exists(settings, STREAM.table)
    table.restore(table.version() - 3)


def removed(settings: Settings) -> None:
    shutil.rmtree(Path(open_if_exists(settings, STREAM.table).table_uri.removeprefix("file://")))


def rows_removed(settings: Settings) -> None:
    """As of a customer who wants to be forgotten."""
    open_if_exists(settings, STREAM.table).delete("customer_id = 7")


NO_LAST_ROW = "the table does not have its last row, so that it was made anew or restored"
CHANGES = [
    (restored_from_a_copy, NO_LAST_ROW),
    (rolled_back, NO_LAST_ROW),
    (removed, NO_LAST_ROW),
    (
        rows_removed,
        "the table has another number of rows up to its last one: some were removed, or added by another process",
    ),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_table_with_another_history_makes_all_tiles_anew(
    settings: Settings, change: Callable[[Settings], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    took_in(settings)
    change(settings)
    with caplog.at_level(logging.WARNING, "forecache.stream"):
        machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    said = [record.getMessage() for record in caplog.records if "TILES" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith(f": {reason}.")
    assert machine.held() == from_rows(settings, STREAM, NIGHT)
    machine.close()
    took_in(settings, 170)
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert machine.read <= 10
    assert machine.held() == from_rows(settings, STREAM, NIGHT)
    machine.close()


OTHERS = {
    "a view more": payments_stream(CUSTOMER, SHOP, replace(CUSTOMER, name="again")),
    "a view less": payments_stream(SHOP),
    "other tiles": payments_stream(CUSTOMER, replace(SHOP, live=Live(nights=3, tile_minutes=30))),
    "more nights": payments_stream(CUSTOMER, replace(SHOP, live=Live(nights=4, tile_minutes=15))),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_stream_that_is_declared_otherwise_makes_all_tiles_anew(
    settings: Settings, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    took_in(settings)
    machine = Machine(settings, OTHERS[other], VALUES, as_of=NIGHT)
    assert "it is of another declaration" in caplog.text
    assert machine.read > 60
    assert machine.held() == from_rows(settings, OTHERS[other], NIGHT)
    machine.close()


def test_an_older_night_makes_all_tiles_anew(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """As after a rollback: tiles of days that it needs may have been dropped."""
    took_in(settings, 200, as_of=NIGHT + timedelta(days=3))
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT + timedelta(days=2))
    assert "stands on an older as-of date" in caplog.text
    assert machine.held() == from_rows(settings, STREAM, NIGHT + timedelta(days=2))
    machine.close()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_damaged_file_makes_all_tiles_anew(
    settings: Settings, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = took_in(settings).tiles.path
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert "its bytes are not those that were written" in caplog.text
    assert not path.exists(), "what is wrong for certain is removed"
    assert machine.held() == from_rows(settings, STREAM, NIGHT)
    machine.close()


def test_a_file_that_cannot_be_read_for_a_moment_is_left_for_the_next_start(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = took_in(settings).tiles.path
    content, opened = path.read_bytes(), Path.open

    def fails(self: Path, *given: Any, **more: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(self, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fails)
        machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert "cannot be read now ([Errno 5] Input/output error" in caplog.text
    assert machine.read > 60
    assert machine.held() == from_rows(settings, STREAM, NIGHT)
    machine.close()
    assert path.read_bytes() == content
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert machine.read == 0
    assert machine.held() == from_rows(settings, STREAM, NIGHT)
    machine.close()
