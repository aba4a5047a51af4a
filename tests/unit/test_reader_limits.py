"""Limits: the rate limit's arithmetic and that it is one limit over several workers."""

import mmap

import pytest

from forecache.reader.app import _accepts_gzip
from forecache.reader.limits import RateLimit
from forecache.reader.runtime import Runtime


@pytest.fixture
def table() -> mmap.mmap:
    return mmap.mmap(-1, RateLimit.TABLE_BYTES)


def test_a_quiet_client_may_send_a_second_of_requests_at_once_and_then_at_the_rate(table: mmap.mmap) -> None:
    limit = RateLimit(table, 10)
    assert [limit.wait_s("10.0.0.1", 100.0) for _ in range(10)] == [0.0] * 10
    assert limit.wait_s("10.0.0.1", 100.0) == pytest.approx(0.1)
    assert limit.wait_s("10.0.0.1", 100.11) == 0.0
    assert limit.wait_s("10.0.0.1", 100.11) > 0.0
    served = sum(limit.wait_s("10.0.0.1", 200 + step / 1000) == 0.0 for step in range(5000))
    assert served == pytest.approx(10 + 5 * 10, abs=1)


def test_clients_do_not_share_a_limit(table: mmap.mmap) -> None:
    limit = RateLimit(table, 1)
    addresses = [f"10.0.{a}.{b}" for a in range(8) for b in range(250)]
    assert all(limit.wait_s(address, 100.0) == 0.0 for address in addresses)
    assert all(limit.wait_s(address, 100.0) > 0.0 for address in addresses)


def test_workers_share_the_limit() -> None:
    runtime = Runtime.create()
    try:
        one, two = (RateLimit(runtime.shared("rate", RateLimit.TABLE_BYTES), 4) for _ in range(2))
        assert [one.wait_s("a", 1.0), two.wait_s("a", 1.0), one.wait_s("a", 1.0), two.wait_s("a", 1.0)] == [0.0] * 4
        assert one.wait_s("a", 1.0) > 0
        assert two.wait_s("a", 1.0) > 0
    finally:
        runtime.remove()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False), ("", False), ("gzip", True), ("br, gzip;q=0.8", True), ("*", True), ("GZIP", True),
        ("gzip;q=0", False), ("gzip; q=0.0", False), ("br", False), ("x-gzip", False), ("deflate, *;q=0.1", True),
    ],
)  # fmt: skip
def test_gzip_is_used_where_the_client_asks_for_it(header: str | None, accepted: bool) -> None:
    assert _accepts_gzip({} if header is None else {"accept-encoding": header}) is accepted
