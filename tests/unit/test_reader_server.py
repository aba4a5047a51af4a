"""Where a reader listens, and that its counters outlive what they count."""

import mmap

import pytest

from forecache.errors import ConflictError, SettingsError
from forecache.reader.runtime import Runtime
from forecache.reader.server import listen


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_reader_without_tokens_listens_beyond_loopback_only_where_that_is_allowed(host: str) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_READER_TOKENS.*FORECACHE_READER_ANONYMOUS"):
        listen(host, 0, anonymous=False)
    listen(host, 0, anonymous=True).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost"])
def test_a_reader_without_tokens_listens_on_loopback(host: str) -> None:
    listen(host, 0, anonymous=False).close()


def test_a_port_has_one_listener() -> None:
    with listen("127.0.0.1", 0, anonymous=False) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConflictError, match=f"Port {port} "):
            listen("127.0.0.1", port, anonymous=False)
    listen("127.0.0.1", port, anonymous=False).close()


def test_shared_memory_is_reserved_when_it_is_made() -> None:
    runtime = Runtime.create(num_slots=3, slot_bytes=1 << 20)
    try:
        reserved = runtime.path.stat().st_blocks * 512
        assert reserved >= mmap.PAGESIZE + 3 * (1 << 20)
    finally:
        runtime.remove()


def test_a_worker_without_a_slot_counts_for_itself() -> None:
    runtime = Runtime.create(num_slots=1, slot_bytes=4096)
    first, second = runtime.claim(), runtime.claim()
    first[0], second[0] = 1, 2
    assert (runtime.slot(0)[0], second[0]) == (1, 2)
