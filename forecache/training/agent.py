"""`torchrun` that ends when the process that started it does: `python -m forecache.training.agent`, same arguments.

An agent whose launcher was killed would go on training unseen; it gets SIGTERM instead, and its workers save.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux only)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has gone")


def heed_signals() -> None:
    """Let SIGTERM end this process even where the one that started it ignores or blocks that signal."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def main() -> None:
    """Run torchrun's own entry point on this process's arguments."""
    heed_signals()
    end_with_parent(signal.SIGTERM)
    from torch.distributed.run import main as torchrun

    torchrun()


if __name__ == "__main__":
    main()
