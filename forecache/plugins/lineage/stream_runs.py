"""Sends OpenLineage events about a running stream, in a thread that the engine never waits for.

A file in the lake notes a run until each receiver has its end: after a kill the next process that has the stream's
lock, on any machine, reports it as aborted.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

from forecache.base.code_version import code_version
from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.installation import open_state
from forecache.plugins.lineage import datasets
from forecache.plugins.lineage.datasets import Dataset
from forecache.plugins.lineage.emit import Receiver, configured_receivers
from forecache.plugins.lineage.events import StreamRun
from forecache.stream.live_layers import layers_of
from forecache.stream.state import StreamState
from forecache.stream.table.schema import event_fields, schema_of

logger = logging.getLogger("forecache.stream")
_LAST_S = 3.0
"""Seconds that a stream waits at its end, after its lock was released, for its last event to be sent."""
_SHOWN = ("rows", "rows_per_s", "bad", "repeats", "late", "lag_events", "offsets", "committed_version", "release")


@contextmanager
def report_run(settings: Settings, stream: Stream, state: StreamState) -> Iterator[None]:
    """Report the run while the block runs, and how it ended; do nothing if no receiver is configured."""
    receivers = configured_receivers(settings)
    if not receivers:
        yield
        return
    teller = _RunReporter(settings, stream, state, receivers)
    try:
        yield
    except BaseException as error:
        teller.end("FAIL", f"{type(error).__name__}: {error}")
        raise
    teller.end("COMPLETE")


@dataclass
class _RunNote:
    """A run that was reported to receivers."""

    started_at: float
    kind: str = ""  # event type of its end; "" while it runs
    at: float = 0.0
    error: str = ""
    receivers: list[str] = field(default_factory=list)  # receivers that do not have its end yet


class _RunReporter:
    def __init__(self, settings: Settings, stream: Stream, state: StreamState, receivers: Sequence[Receiver]) -> None:
        self._settings, self._stream, self._state, self._receivers = settings, stream, state, receivers
        self._notes, self._folder = open_state(settings, patience_s=_LAST_S), f"lineage/streams/{stream.name}"
        self._file = f"{self._folder}/{state.started_at}.json"
        self._noted = _RunNote(state.started_at)
        self._noting = threading.Lock()
        self._rows = dict.fromkeys((each.name for each in receivers), 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forecache-stream-lineage", daemon=True)
        self._thread.start()

    def end(self, kind: str, error: str = "") -> None:
        """Report the end of the run; wait up to `_LAST_S` for the event to be sent."""
        self._noted.kind, self._noted.error, self._noted.at = kind, error, time.time()
        self._save_note()  # at once: the next run may start before a slow receiver has the event
        self._stop.set()
        self._thread.join(_LAST_S)

    def _run(self) -> None:
        try:
            self._report_earlier_runs()
        except Exception:
            logger.exception("Whether an earlier run of the stream %s was killed is not reported.", self._stream.name)
        try:
            self._report_this_run()
        except Exception:
            logger.exception("OpenLineage events of the stream %s are not sent any more.", self._stream.name)

    def _report_earlier_runs(self) -> None:
        for name in sorted(self._notes.names(self._folder)):
            if not name.rpartition("/")[2].startswith("."):  # as files that are being written do
                self._report_earlier_run(name)

    def _report_earlier_run(self, name: str) -> None:
        """Report the end of an earlier run to the receivers that do not have it."""
        found = self._notes.read(name)
        if found is None:  # its receivers have its end meanwhile
            return
        try:
            earlier = _RunNote(**json.loads(found[0]))
        except (ValueError, TypeError):
            logger.warning("The note %s of an earlier run cannot be read; the end of that run is not told.", name)
            self._notes.delete([name])
            return
        run = StreamRun(self._stream.name, earlier.started_at)
        event = run.event(self._settings, earlier.kind or "ABORT", earlier.at or time.time(), error=earlier.error)
        for receiver in self._receivers:
            if receiver.name in earlier.receivers:
                self._send(receiver, event)
        self._notes.delete([name])  # one attempt only: a receiver may be gone for good

    def _report_this_run(self) -> None:
        run = self._declare_run()
        while True:
            is_last = self._stop.is_set()
            for receiver in self._receivers:
                self._report_to(run, receiver, is_last)
            if is_last:
                return
            self._stop.wait(self._settings.openlineage_stream_every_s)

    def _report_to(self, run: StreamRun, receiver: Receiver, is_last: bool) -> None:
        settings, noted, state = self._settings, self._noted, self._state
        if receiver.name not in noted.receivers:
            if not self._send(receiver, run.event(settings, "START", noted.started_at)):
                return
            noted.receivers.append(receiver.name)
            self._save_note()
        rows = state.rows
        event = run.event(
            settings,
            noted.kind if is_last else "RUNNING",
            noted.at if is_last else time.time(),
            figures={name: getattr(state, name) for name in _SHOWN} | {"engine": state.engine},
            outputs=self._outputs_at_version(run, rows - self._rows[receiver.name]),
            error=noted.error if is_last else "",
        )
        if self._send(receiver, event):
            self._rows[receiver.name] = rows
            if is_last:
                noted.receivers.remove(receiver.name)
                self._save_note()

    def _send(self, receiver: Receiver, event: dict[str, object]) -> bool:
        """Send an event; False if it should be sent again later."""
        failed = receiver.send([event])
        if failed is not None:
            logger.warning("The OpenLineage %s did not take an event of a stream: %s", receiver.name, failed.reason)
        return failed is None or failed.refused

    def _save_note(self) -> None:
        # Called by both threads. If the note cannot be written, the end of a killed run will not be reported.
        with self._noting, suppress(ForecacheError, OSError):
            if self._noted.receivers:
                self._notes.write(self._file, json.dumps(asdict(self._noted)).encode())
            else:
                self._notes.delete([self._file])

    def _outputs_at_version(self, run: StreamRun, rows: int) -> list[Dataset]:
        """The outputs; the table with the version of the last commit and the number of rows since the last event."""
        version = self._state.committed_version
        table, *others = run.outputs
        return [replace(table, version=str(version) if version >= 0 else "", rows=rows), *others]

    def _declare_run(self) -> StreamRun:
        settings, stream = self._settings, self._stream
        events = [{"name": each.name, "type": str(each.type)} for each in event_fields(stream.topic)]
        rows = [{"name": each.name, "type": str(each.type)} for each in schema_of(stream)]
        inputs = [datasets.topic(settings, stream.topic.topic, schema={"fields": events})]
        inputs += [datasets.table(settings, view.feature_table, None) for view in stream.views]
        outputs = [datasets.table(settings, stream.table, None, schema={"fields": rows})]
        for name, layer in layers_of(stream).items():
            fields = [{"name": key.name, "type": key.type} for key in layer.key.columns]
            fields += [{"name": each.name, "type": each.type} for each in layer.fields]
            outputs.append(datasets.live_layer(settings, name, schema={"fields": fields}))
        if stream.to_topic is not None:
            outputs.append(datasets.topic(settings, stream.to_topic.topic, schema={"fields": rows}))
        code = code_version(settings) if settings.openlineage_code_url else ""
        return StreamRun(stream.name, self._state.started_at, code, inputs, outputs)
