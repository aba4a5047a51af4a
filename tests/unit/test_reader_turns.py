"""How long a request has waited in its socket: not at all where the loop was asleep, else since it last looked."""

import socket
import time

import pytest
import uvloop

from forecache.kit.http import http1 as module
from forecache.kit.http.http1 import SocketWaitEstimator


def test_what_waited_while_the_loop_was_at_work_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE_NS", 400_000_000)  # a busy machine may keep the loop for so long
    loop = uvloop.new_event_loop()
    found: list[tuple[int, int]] = []
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        turns = SocketWaitEstimator(loop)

        def read() -> None:
            ours.recv(10)
            now = turns.note_read()
            found.append((turns.max_wait_ns(now), turns.mean_wait_ns(now)))
            if len(found) == 1:
                loop.call_later(0.5, theirs.send, b"x")
            if len(found) == 2:  # the loop works, and something comes meanwhile
                theirs.send(b"x")
                time.sleep(0.02)
            if len(found) == 3:
                loop.stop()

        loop.add_reader(ours.fileno(), read)
        theirs.send(b"x")
        loop.run_forever()
    finally:
        loop.close()
        ours.close()
        theirs.close()
    asleep, again, (most, average) = found
    assert asleep == again == (0, 0)
    assert most >= 20_000_000
    assert most // 2 <= average < most
