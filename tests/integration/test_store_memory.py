"""The memory of an incremental publish does not grow with the rows of a night, whatever order they lie in."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake
from store_tables import NEXT_NIGHT, NIGHT, churn

from forecache.base.settings import Settings, load_settings
from forecache.serve.store import publish

_SUPPORT = Path(__file__).parents[1] / "support"
_ROW_GROUP_ROWS = 1 << 16
"""Small, so that what is read at a time is small beside the rows of a night."""
_CHANGED = 1_000
_MOST_GROWTH = 56 << 20
"""The rows of both nights would be 100 bytes for each of the two million more, their hashes 32. What allocators keep
differs by some 30 MB from run to run."""
_SCRIPT = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from store_tables import churn
from forecache.base.settings import load_settings
from forecache.serve.store import publish
from forecache.kit.delta.comparison import compare
from forecache.kit.delta.comparison import hash_buckets
from forecache.serve.store.publishing import row_changes

compare.KEPT_BYTES = hash_buckets.WAITING_BYTES = 2 << 20  # bounds that so few rows reach too
row_changes.num_cores = lambda: 1
peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        resident, shared = map(int, open("/proc/self/statm").read().split()[1:3])
        peak = max(peak, resident - shared)

thread = threading.Thread(target=watch)
thread.start()
result = publish(load_settings(home=sys.argv[1]), churn())
done.set()
thread.join()
assert result.details["changes_from"] == "partition", result.details
print(peak * 4096, result.details["changed"])
"""


def write(settings: Settings, order: np.ndarray, scores: np.ndarray, night: date) -> None:
    rows = len(order)
    write_deltalake(
        settings.table_uri("predictions_churn"),
        pa.table(
            {
                "customer_id": pa.array(order).cast(pa.string()),
                "as_of": pa.repeat(pa.scalar(night), rows),
                "churn_probability": scores[order],
                "risk_segment": pa.repeat("low", rows),
                "model_name": pa.repeat("churn", rows),
                "model_version": pa.repeat(pa.scalar(3, pa.int32()), rows),
                "feature_version": pa.repeat(7, rows),
                "scored_at": pa.repeat(pa.scalar(0, pa.timestamp("us", "UTC")), rows),
                "run_id": pa.repeat(f"run-{night}", rows),
            }
        ),
        mode="append",
        partition_by=["as_of"],
        writer_properties=WriterProperties(max_row_group_size=_ROW_GROUP_ROWS),
    )


def peak_of_new_night(home: Path, rows: int, *, shuffled: bool) -> int:
    """Largest anonymous memory, in bytes, of the publish of a night over the one before."""
    settings, rng = load_settings(home=home), np.random.default_rng(rows)
    order, scores = rng.permutation(rows), rng.random(rows)
    write(settings, order, scores, NIGHT)
    publish(settings, churn())
    scores[:_CHANGED] += 1.0
    write(settings, rng.permutation(rows) if shuffled else order, scores, NEXT_NIGHT)
    command = [sys.executable, "-c", _SCRIPT, str(home), str(_SUPPORT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    peak, changed = map(int, done.stdout.split())
    assert changed == _CHANGED
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True], ids=["same order", "another order"])
def test_memory_of_a_new_night_does_not_grow_with_its_rows(tmp_path: Path, shuffled: bool) -> None:
    few = peak_of_new_night(tmp_path / "few", 300_000, shuffled=shuffled)
    many = peak_of_new_night(tmp_path / "many", 2_300_000, shuffled=shuffled)
    assert many - few < _MOST_GROWTH, f"{many - few:,} bytes more for two million rows more, beside {few:,}"
