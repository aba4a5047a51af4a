"""A worker process: reads jobs as JSON lines from standard input, writes results as JSON lines to standard output.

Run as `python -m forecache.store.encoding.worker`. It is a fresh interpreter, so it inherits neither a JVM nor locks,
and it dies with its parent: when standard input closes, it exits at once.
"""

import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

from forecache.errors import ForecacheError


def main() -> None:
    # Results go to the real standard output; anything that a library prints goes to standard error.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    import pyarrow as pa

    from forecache.store.encoding.jobs import JOBS

    pa.set_cpu_count(1)
    while True:
        job = json.loads(jobs.get())
        output.write(json.dumps(_run(JOBS[job["function"]], job["arguments"])) + "\n")
        pa.default_memory_pool().release_unused()


def _read(jobs: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _run(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": function(**arguments)}
    except ForecacheError as error:
        return {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
    except Exception:  # noqa: BLE001 - the parent raises it again, with this traceback
        return {"error": "", "message": traceback.format_exc(), "remedy": ""}


if __name__ == "__main__":
    main()
