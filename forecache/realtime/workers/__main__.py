"""Entry point of the processes that a reader starts for a model: the template, and a worker that is not forked.

python -m forecache.realtime.workers template CONFIG CHANNEL READER_PID
python -m forecache.realtime.workers model CONFIG CHANNEL MEMORY TEMPLATE_PID
"""

import sys

from forecache.realtime.release.alone import only_answer
from forecache.realtime.workers.forking import end_with, run_template
from forecache.realtime.workers.model import run_model
from forecache.realtime.workers.orders import Orders


def main(kind: str, orders: str, channel: str, *rest: str) -> int:
    end_with(int(rest[-1]))
    only_answer()
    if kind == "template":
        return run_template(Orders.from_json(orders), int(channel))
    return run_model(Orders.from_json(orders), int(channel), int(rest[0]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
