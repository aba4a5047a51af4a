"""The event loop's view of a warm model process: its running calls, and the time of its last progress."""

import asyncio
from contextlib import suppress

import numpy as np

from forecache.realtime.answer.model_path import ModelCallError, TooLate
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.workers.model_process import ModelProcess
from forecache.realtime.workers.slot_memory import BEGUN, BEGUN_NS, DONE_NS, FAILED, REQUESTS, SCORED, STATUS

_SLOT = [bytes([number]) for number in range(256)]
_RECEIVE_BYTES = 4096


class ModelCall:
    """A request sent to a model process, and the future of its scores."""

    __slots__ = ("found", "future", "request", "sent", "slot", "until", "worker")

    def __init__(
        self, request: ParsedRequest, found: LookupResult, until: float, future: "asyncio.Future[np.ndarray]"
    ) -> None:
        self.request, self.found, self.until, self.future = request, found, until, future
        self.worker: Worker | None = None
        self.slot = 0
        self.sent = 0.0

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Worker:
    """
    Args:
        process: A warm one; its channel does not block.
    """

    def __init__(self, process: ModelProcess) -> None:
        self.process, self.memory, self.channel = process, process.memory, process.channel
        self.descriptor = process.channel.fileno()
        self.free = list(range(process.memory.layout.slots))
        self.calls: dict[int, ModelCall] = {}
        self.overgrown = False
        """True if it takes too much memory and its replacement is starting."""
        self._since = 0.0
        self._sent = 0

    def silent_s(self, now: float) -> float:
        """Return the seconds without progress; 0 if the process is idle.

        Progress is read from shared memory, because answers may lie unread while the loop is busy.
        """
        if not self.calls:
            return 0.0
        head = self.memory.head
        begun_ns = head[BEGUN_NS]
        if not begun_ns and head[REQUESTS] == self._sent:
            return 0.0
        return now - max(self._since, (begun_ns or head[DONE_NS]) / 1e9)

    def send(self, call: ModelCall, now: float) -> bool:
        """Send a request; return False if the process has ended."""
        slot = self.free.pop()
        try:
            self.memory.write_request(slot, call.request, call.found, int(call.until * 1e9))
        except (ValueError, KeyError) as error:
            self.free.append(slot)
            call.fail(ModelCallError(str(error)))
            return True
        if not self.calls:
            self._since = now
        call.worker, call.slot, call.sent = self, slot, now
        self.calls[slot] = call
        self._sent += 1
        try:
            self.channel.send(_SLOT[slot])
        except OSError:
            return False
        return True

    def receive(self) -> bytes | None:
        """Complete the answered calls and return their slots' numbers; None if the process has ended."""
        slots = b""
        try:
            slots = self.channel.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return slots
        except OSError:
            pass
        if not slots or not self.calls.keys() >= set(slots):
            return None
        for slot in slots:
            call = self.calls.pop(slot)
            call.worker = None
            if not call.future.done():
                self._complete_call(call)
            self.free.append(slot)
        return slots

    def has_begun(self, call: ModelCall) -> bool:
        """Return True if the process has begun an unanswered call."""
        return self.memory.cells[call.slot][STATUS] == BEGUN

    def _complete_call(self, call: ModelCall) -> None:
        memory, slot = self.memory, call.slot
        status = memory.cells[slot][STATUS]
        if status == SCORED:
            # A broken process may have written anything.
            with suppress(ValueError):
                scores = memory.read_scores(slot)
                if len(scores) == call.request.length:
                    call.found.features = memory.read_features(slot)
                    call.future.set_result(scores)
                    return
            call.fail(ModelCallError("The model process wrote scores that cannot be read."))
        elif status == FAILED:
            call.fail(ModelCallError(memory.read_fault(slot)))
        else:
            call.fail(TooLate())
