"""One publish in a process of its own, as the nightly job does it; prints the outcome as JSON.

Usage: python publish_job.py HOME [full]
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from _store import rows
from _store.processes import PYTHON, run_checked


def publish_in_child(home: Path, *, full: bool = False) -> dict[str, Any]:
    """Publish the newest night of the benchmark's pipeline; seconds of the call, version, kind and so on."""
    output = run_checked([PYTHON, "-m", "_store.publish_job", home, *(["full"] if full else [])], cwd=_BENCHMARKS)
    line = next(line for line in reversed(output.splitlines()) if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


_BENCHMARKS = Path(__file__).resolve().parents[1]


def publish_once(home: Path, *, full: bool) -> dict[str, Any]:
    from forecache.base.settings import load_settings
    from forecache.serve.store.publishing.publish import publish

    settings, pipeline = load_settings(home=home), rows.pipeline()
    started = time.perf_counter()
    result = publish(settings, pipeline, full=full)
    seconds = time.perf_counter() - started
    assert not result.skipped, "there was something to publish"
    return {"seconds": seconds, "rows": result.rows, **result.details}


if __name__ == "__main__":
    print("RESULT " + json.dumps(publish_once(Path(sys.argv[1]), full=sys.argv[2:] == ["full"]), default=str))
