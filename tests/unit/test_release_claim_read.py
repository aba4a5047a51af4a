"""A claim that is not what was written, whatever its bytes, is one clear error that names the file and the remedy."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from forecache.base.errors import DamagedError
from forecache.base.folders import LocalFolder
from forecache.realtime.release.claim import Claim, make_claim, move_claim, read_claim, record_rollout
from forecache.serve.store.checksummed_json import dump_with_checksum

OURS = Claim("search", "a" * 32, "host", "/store", "2026-03-01T08:00:00.000000+00:00")
GOOD = dump_with_checksum(asdict(OURS))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (GOOD[: len(GOOD) // 2], "is damaged"),
        (GOOD.replace(b"host", b"hose"), "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "is damaged"),
        (b'"search"', "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (json.dumps(asdict(OURS)).encode(), "has no checksum"),
        (dump_with_checksum({**asdict(OURS), "format": 2}), "has the format 2"),
        (dump_with_checksum({"format": 1, "name": "search"}), "has other fields than a claim"),
    ],
    ids=["empty", "half", "changed", "no text", "a list", "a text", "deep", "unsealed", "later", "other fields"],
)
def test_a_damaged_claim_is_named_with_its_remedy_and_only_a_take_over_replaces_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    lake, file = LocalFolder(tmp_path), tmp_path / ".realtime/search/CLAIM"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    for refused in (
        lambda: read_claim(lake, "search"),
        lambda: make_claim(lake, OURS),
        lambda: record_rollout(lake, "search", OURS.home, {}),
    ):
        with pytest.raises(DamagedError, match=f"The claim {file} {said}.+`forecache release search --take-over`"):
            refused()
    assert file.read_bytes() == content
    assert move_claim(lake, OURS) == read_claim(lake, "search") == OURS
