"""torchrun's agent: `python -m forecache.plugins.torch.agent`, torchrun's options, and the path of spec.json.

It differs from `torchrun` in two ways:

- It receives SIGTERM when its parent process dies, so that its workers save and exit instead of running on as orphans.
- Its workers are forked from a server that has imported what they need, and the server is forked from the agent once
  that has imported torch. A launch takes half as long and imports torch once, and a worker that replaces a killed one
  starts at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

from forecache.kit.process.child import end_with_parent, reset_sigterm


def start_server() -> None:
    """Fork the server of the workers from this process; multiprocessing would start another interpreter for it."""
    resource_tracker.ensure_running()
    interpreter, util.spawnv_passfds = util.spawnv_passfds, _fork_instead
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = interpreter


def _fork_instead(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Run the program after `-c` in a fork of this process that keeps only some file descriptors; returns its id."""
    process = os.fork()
    if process:
        return process
    try:
        kept = sorted([sys.stderr.fileno(), *passfds])
        for below, above in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
            os.closerange(below + 1, above)
        forkserver._forkserver._lock = threading.Lock()  # type: ignore[attr-defined]  # the caller's is held for ever
        exec(args[-1], {})
    except Exception:  # noqa: BLE001  (nothing else would report it)
        traceback.print_exc()
    finally:
        os._exit(0)


def main() -> None:
    """Run the workers of the specification that the last argument names, as torchrun would."""
    started = time.time()
    reset_sigterm()
    end_with_parent(signal.SIGTERM)
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    from forecache.plugins.torch.worker.entry import work

    # The latter two are imported at first use: by torch's optimizers, and by pyarrow.
    multiprocessing.set_forkserver_preload(["forecache.plugins.torch.worker.run", "torch._dynamo", "pandas"])
    start_server()
    options = parse_args(["--start-method=forkserver", *sys.argv[1:]])
    config, _, _ = config_from_args(options)
    elastic_launch(config, entrypoint=work)(options.training_script, started)


if __name__ == "__main__":
    main()
