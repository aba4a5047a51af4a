"""Requests to real-time models as the clients write them, and when a refused one is sent again."""

import time
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pytest

from forecache.base.errors import InputError, UnavailableError
from forecache.serve.reader.client import Client
from forecache.serve.reader.wire import CallOutcome, request_body


def test_moments_and_numbers_of_numpy_are_sent_as_json_has_them() -> None:
    request = {
        "at": datetime(2026, 3, 1, 8, 30, tzinfo=timezone.utc),
        "on": date(2026, 3, 1),
        "shop": np.int64(2**53 + 1),
        "candidates": np.array(["a", "ключ"], dtype=object),
    }
    assert request_body("search", request).decode() == (
        '{"at":"2026-03-01T08:30:00+00:00","on":"2026-03-01","shop":9007199254740993,"candidates":["a","ключ"]}'
    )


@pytest.mark.parametrize(
    ("value", "told"), [(float("nan"), "not JSON compliant"), (b"a", "a value is a bytes"), ("\ud800", "surrogates")]
)
def test_what_json_has_no_text_for_is_refused_before_it_is_sent(value: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"The request to 'search' cannot be sent: .*{told}"):
        request_body("search", {"price": value})


def test_clients_that_are_refused_together_come_back_one_by_one() -> None:
    """A reader that refuses a thousand requests at one moment would else refuse them again a second later."""
    refused = CallOutcome(None, UnavailableError("busy"), again=True, retry_after_s=1.0)
    with Client("http://reader") as client:
        pauses = [client._next_pause(0, refused, time.monotonic() + 3600) for _ in range(1000)]
        assert min(pauses) >= 1.0
        for tenth in range(10):
            assert 20 < sum(1 + tenth / 10 <= pause < 1 + (tenth + 1) / 10 for pause in pauses) < 250
        # A deadline that leaves time for no more than the pause that was asked for is met.
        long = refused._replace(retry_after_s=600.0)
        assert all(client._next_pause(0, long, time.monotonic() + 660) < 661 for _ in range(100))
        with pytest.raises(UnavailableError, match="busy"):
            client._next_pause(0, long, time.monotonic() + 599)
