"""A tailer in a process of its own that kills itself at a step: `tail_job.py HOME STEP NTH`."""

import os
import signal
import sys
import threading

from forecache.settings import load_settings
from forecache.steps import tail_step
from forecache.stream.tail import follower
from forecache.stream.tail.run import run_tailer

if __name__ == "__main__":
    home, step, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seen = 0

    def kill(name: str) -> None:
        global seen
        seen += name == step
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if step:
        tail_step.on_step = kill
    follower.RISE_S = 0.0
    print("started", flush=True)
    run_tailer(load_settings(home=home, stream_verify_s=0.1), stop=threading.Event())
