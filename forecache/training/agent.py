"""torchrun's agent for a training: `python -m forecache.training.agent`, torchrun's options, and the path of spec.json.

It differs from `torchrun` in two ways:

- It receives SIGTERM when its parent process dies, so that its workers save and exit instead of running on as orphans.
- Its workers are forked from a process that imports torch once, while the agent imports it too. This halves the launch
  time, and a worker that replaces a killed one starts at once.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux only)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the parent process has exited")


def reset_sigterm() -> None:
    """Restore SIGTERM's default action, because a parent that ignores or blocks the signal passes that on."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def main() -> None:
    """Run the workers of the specification that the last argument names, as torchrun would."""
    started = time.time()
    reset_sigterm()
    end_with_parent(signal.SIGTERM)
    # The latter two are imported at first use: by torch's optimizers, and by pyarrow.
    multiprocessing.set_forkserver_preload(["forecache.training.worker.run", "torch._dynamo", "pandas"])
    forkserver.ensure_running()
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    from forecache.training.worker.entry import work

    options = parse_args(["--start-method=forkserver", *sys.argv[1:]])
    config, _, _ = config_from_args(options)
    elastic_launch(config, entrypoint=work)(options.training_script, started)


if __name__ == "__main__":
    main()
