"""Compression where the client asks for it."""

import pytest

from forecache.serve.reader.http.app import _accepts_gzip


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False), ("", False), ("gzip", True), ("br, gzip;q=0.8", True), ("*", True), ("GZIP", True),
        ("gzip;q=0", False), ("gzip; q=0.0", False), ("br", False), ("x-gzip", False), ("deflate, *;q=0.1", True),
    ],
)  # fmt: skip
def test_gzip_is_used_where_the_client_asks_for_it(header: str | None, accepted: bool) -> None:
    assert _accepts_gzip({} if header is None else {"accept-encoding": header}) is accepted
