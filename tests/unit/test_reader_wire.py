"""Requests to real-time models as the clients write them."""

from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pytest

from forecache.base.errors import InputError
from forecache.serve.reader.wire import request_body


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
