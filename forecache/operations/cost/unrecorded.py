"""Ingestions and publishes whose cost is not known, as their process died before it recorded them in the ledger."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime

from forecache.errors import ForecacheError
from forecache.lake.delta.small_tables import read_rows
from forecache.lake.ingest.ingested import FILES_TABLE
from forecache.lake.ledger import StageRecord
from forecache.settings import Settings
from forecache.store.checkup import stores_here


def unrecorded(settings: Settings, records: Iterable[StageRecord], since: datetime) -> list[str]:
    """A sentence for each source and store with more files or versions since a moment than the ledger has recorded.

    Such work is missing in the cost: its process died before it wrote to the ledger.

    Args:
        records: The rows of the ledger since that moment.
    """
    files: Counter[str] = Counter()
    versions: dict[str, set[int]] = {}
    for record in records:
        if record.stage == "ingest":
            files[record.subject] += record.details["files"]
        elif record.stage == "publish":
            versions.setdefault(record.subject, set()).add(record.details["version"])
    return [*_of_sources(settings, files, since), *_of_stores(settings, versions, since)]


def _of_sources(settings: Settings, recorded: Counter[str], since: datetime) -> Iterator[str]:
    # A file that was ingested again has one row, and is counted as often as it was ingested.
    there = Counter(row["source"] for row in read_rows(settings, FILES_TABLE, [("ingested_at", ">=", since)]))
    for source, count in sorted(there.items()):
        if (missing := count - recorded[source]) > 0:
            yield f"What ingesting {missing:,} of {count:,} files of {source} took is not known."


def _of_stores(settings: Settings, recorded: dict[str, set[int]], since: datetime) -> Iterator[str]:
    for store in stores_here(settings):
        with suppress(ForecacheError):  # damaged: `forecache verify` says so
            there = {each.version for each in store.versions() if each.published >= since}
            if missing := there - recorded.get(store.pipeline, set()):
                yield f"What {len(missing):,} of {len(there):,} publishes of {store.pipeline} took is not known."
