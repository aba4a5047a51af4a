"""Changes of an incremental publish with a stream: those of the batch, with the stream's rows over them.

The old entry of a key is looked up in the published version. The new one is the stream's row if the batch cannot
include its event, else the batch's row.
"""

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa

from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import Encoder, EntryEncoding, encode_keys
from forecache.serve.store.encoding.streamed_rows import StreamTable
from forecache.serve.store.manifest import Provenance
from forecache.serve.store.publishing.overlay import make_key_set, unseen_rows
from forecache.serve.store.publishing.publication import Publication
from forecache.serve.store.publishing.row_changes import ChangesUnavailable, KeyChanges

_LARGE = pa.large_binary()
_BLOCK_KEYS = 1 << 13


def find_uncovered_keys(publication: Publication) -> pa.Array | None:
    """Find the keys (binary) that the published version has from the stream, and the new one has not.

    It is None if streamed rows are never published: there is no stream, or its tiles are merged when rows are read.
    Raises ChangesUnavailable if the stream's table does not have all of these rows any more.
    """
    current, overlay = publication.published, publication.overlay
    if overlay is None or overlay.is_merged:
        return None
    same_night = current.as_of == publication.source.source.as_of
    if not current.streamed or (same_night and current.cut <= overlay.cut):
        return pa.array([], pa.binary())  # an event that the batch did not include before is not in it now
    table = StreamTable(publication.settings, overlay.table, overlay.cut, overlay.table_id)
    key, night = publication.key, date.fromisoformat(current.as_of)
    rows = unseen_rows(table, key, key.names, publication.fields, night=night, cut=current.cut)
    found = 0 if rows is None else len(rows)
    if rows is None or found != current.streamed:
        raise ChangesUnavailable(f"the stream's table has {found:,} of the {current.streamed:,} rows published from it")
    keys = encode_keys(rows, publication.key)
    return keys.filter(pa.array(~make_key_set(overlay.keys).mask(keys)))


def add_stream_changes(
    publication: Publication, batch: KeyChanges, uncovered: pa.Array, encoding: EntryEncoding
) -> tuple[KeyChanges, int, dict[str, Provenance]]:
    """The changes from the published version to the batch's rows with the stream's rows over them.

    Then come the change of the number of rows with a provenance of their own, and the provenances of the stream's rows.
    """
    overlay = publication.overlay
    assert overlay is not None
    encoder, own_keys, own_entries = overlay.encode_rows(encoding)
    new: dict[bytes, bytes] = dict.fromkeys(uncovered.to_pylist(), b"")
    new.update(_rows_of_night(publication, uncovered, encoding))
    new.update(zip(batch.key_list, batch.entries.to_pylist(), strict=True))
    new.update(zip(own_keys.to_pylist(), own_entries.to_pylist(), strict=True))
    keys = sorted(new)
    rows = zip(keys, find_published(publication, keys), strict=True)
    changed = [(key, before, new[key]) for key, before in rows if new[key] != before]
    old, now = [before for _, before, _ in changed], [entry for _, _, entry in changed]
    changes = KeyChanges(
        keys=pa.array([key for key, _, _ in changed], _LARGE),
        entries=pa.array(now, _LARGE),
        hashes=_hashes((key, entry) for key, _, entry in changed),
        new=np.array([not before for before in old], bool),
        old_sum=hashing.hash_sum(_hashes((key, before) for key, before, _ in changed)),
    )
    carried = sum(b"\n" in entry for entry in now) - sum(b"\n" in entry for entry in old)
    return changes, carried, encoder.provenances


def _rows_of_night(publication: Publication, keys: pa.Array, encoding: EntryEncoding) -> Iterator[tuple[bytes, bytes]]:
    if len(keys) == 0:
        return
    wanted, reader, encoder = make_key_set(keys), publication.source.reader, Encoder(encoding, 1)
    for piece in reader.pieces:
        only = reader.provenance(piece)
        columns = encoding.columns(provenance=only is None)
        for batch in reader.batches(piece, columns, batch_rows=encoding.batch_rows):
            mask = wanted.mask(encode_keys(batch, encoding.key))
            if mask.any():
                some = encoder.encode(batch.filter(pa.array(mask)), f"{piece.label}, row {{}}", 0, only)
                yield from zip(some[0].to_pylist(), some[1].to_pylist(), strict=True)


def find_published(publication: Publication, keys: list[bytes]) -> list[bytes]:
    """The entries of the published version; empty for unknown keys."""
    found: list[bytes] = []
    with publication.store.open_version(publication.published) as snapshot:
        for start in range(0, len(keys), _BLOCK_KEYS):
            found += [entry or b"" for entry in snapshot.get_entries(keys[start : start + _BLOCK_KEYS])]
    return found


def _hashes(rows: Iterable[tuple[bytes, bytes]]) -> np.ndarray:
    """Hashes of keys with their entries, as `hashing.row_hashes` returns them; zero for empty entries."""
    listed = list(rows)
    hashes = hashing.row_hashes(map(b"\0".join, listed)).copy()
    hashes[[not entry for _, entry in listed]] = 0
    return hashes
