"""Entry point of the processes that a reader starts for a model: the template, and a worker that is not forked.

python -m forecache.realtime.workers template CONFIG CHANNEL READER_PID
python -m forecache.realtime.workers model CONFIG CHANNEL MEMORY TEMPLATE_PID
"""

import sys

from forecache.realtime.release.inference_imports import mark_inference_only
from forecache.realtime.workers.forking import end_with_parent, run_template
from forecache.realtime.workers.model_main import run_model
from forecache.realtime.workers.worker_config import WorkerConfig


def main(kind: str, orders: str, channel: str, *rest: str) -> int:
    end_with_parent(int(rest[-1]))
    mark_inference_only()
    if kind == "template":
        return run_template(WorkerConfig.from_json(orders), int(channel))
    return run_model(WorkerConfig.from_json(orders), int(channel), int(rest[0]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
