"""Lost rows as recorded beside the spool, without the reader's metrics."""

from collections import Counter

from forecache.realtime.log.commit.state import read_state
from forecache.realtime.log.spool.files import LOCK, streams_of
from forecache.realtime.log.spool.note import read_note
from forecache.settings import Settings


def lost_rows(settings: Settings, name: str) -> dict[str, int]:
    """Count the rows of a model's log that were lost here, by reason, since its folder in the spool was made.

    The reasons are those of the metric `forecache_request_log_rows_lost_total`. Losses of a writer that could not
    create its folder are not included.
    """
    folder = settings.request_log_path / name
    state = read_state(folder)
    found = Counter({"damaged": state.lost_damaged, "expired": state.lost_expired})
    found.update(state.lost_by_writers)
    for stream in streams_of(folder):
        if stream.name not in state.settled:
            found.update(read_note(stream / LOCK).lost)
    return {reason: lost for reason, lost in sorted(found.items()) if lost}
