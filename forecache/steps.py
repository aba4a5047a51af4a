"""The named steps of work that a kill may cut short anywhere, so that tests can kill it at each."""

from collections.abc import Callable


class Steps:
    """Called with a step's name just after the step is done.

    Attributes:
        names: Of the steps, in order.
        on_step: Called with each name; only tests set it.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.on_step: Callable[[str], None] | None = None

    def __call__(self, name: str) -> None:
        assert name in self.names, name
        if self.on_step is not None:
            self.on_step(name)


COMMIT_STEPS = ("file written", "staged", "checked", "decided", "committed", "recorded")
"""From a table's first new data file to the ledger's row."""

lake_step = Steps(*COMMIT_STEPS, "file removed")

extract_step = Steps("batch extracted", "file landed")

MERGE_STEPS = ("merged", "merged base moved", "merged base verified")
"""Only where base and deltas are merged into a new base."""

publish_step = Steps(
    *("locked", "stream read", "cleaned", "encoded", "built", "segments moved", "verified"),
    *MERGE_STEPS,
    *("manifest written", "pointer moved", "retired"),
)

push_step = Steps("remote read", "uploaded", "manifest created", "pointer moved")
"""Of a version on its way to a remote that several homes push to; then what is retired there is removed."""

rollback_step = Steps(
    *("planned", "begun", "champion moved", "model marked", "quarantined", "pointer moved"),
    *("targets synced", "recorded"),
)

RELEASE_STEPS = ("locked", "staged", "moved", "pointer moved", "retired")

release_step = Steps(*RELEASE_STEPS, "set aside")
"""A release is set aside only where a pull puts another one of its number in its place."""

claim_step = Steps("identified", "claimed", "taken over", "adopted")
"""Of a home that comes to release a model: it has an identity, then the claim, and what it took over is its own."""

LOG_STEPS = ("frames written", "segment closed", "rows written", "rows committed", "counted", "segment removed")
"""From an answer's bytes in the spool to its row in the lake."""

log_step = Steps(*LOG_STEPS)
ROLLOUT_STEPS = ("counted", "state written", "pointer moved", "marked")

rollout_step = Steps(*ROLLOUT_STEPS)
"""Of a look of the controller: requests counted, state replaced; at the end of a rollout also the pointer, by which the
candidate answers all, or is marked as bad."""

STREAM_STEPS = (
    *("judged", "pending written", "bad messages sent", "bad messages committed"),
    *("rows written", "rows committed", "confirmed"),
)
"""From a message of a topic to its row, or to the quarantine."""

stream_step = Steps(*STREAM_STEPS)

ids_step = Steps("ids written", "list saved", "ids merged")
"""Of the files with the ids of a stream's events: a file written, the list of files replaced, files merged into one."""

tiles_step = Steps("tiles read", "tiles written", "tiles replaced")
"""Of the file with a stream's tiles: what the views hold is read, the new file is whole, it has the old one's place."""

tail_step = Steps("commit read", "applied", "caught up", "rows read", "replaced", "pruned", "verified")
"""Of a tailer: a commit of the stream's table read and applied; behind a gap, rows taken from the table; a layer made
anew; rows removed that no version needs; the layer found equal to the table."""

topic_step = Steps("produced", "flushed", "sent")
"""Of answers that are sent to a topic: a message, all of a transaction before its commit, the commit."""
