"""Reading a manifest from its JSON."""

from typing import Any

from forecache.errors import UnavailableError
from forecache.store.fields import Field
from forecache.store.keys import KeyColumn, KeySchema
from forecache.store.manifest import FORMAT, Manifest, Policy, Provenance, SegmentInfo, ShardInfo, Source
from forecache.store.sealed import unsealed


def manifest_from_json(content: bytes, *, what: str = "The manifest") -> Manifest:
    """Read a manifest.

    Args:
        what: The file, for messages.

    Raises:
        DamagedError: Its bytes are not those that were written.
        UnavailableError: A Forecache with another store format wrote it.
    """
    data = unsealed(content, what=what)
    if data.get("format") != FORMAT:
        raise UnavailableError(
            f"The manifest of {data['pipeline']} version {data['version']} has the format {data.get('format')}.",
            remedy=f"This Forecache reads format {FORMAT}: upgrade it, or where the store is the older one, remove the "
            "pipeline's store folder and publish again.",
        )
    data["key"] = KeySchema(tuple(KeyColumn(**column) for column in data["key"]["columns"]))
    data["fields"] = tuple(Field(**item) for item in data["fields"])
    data["states"] = tuple(Field(**item) for item in data.get("states", ()))
    data["segments"] = tuple(_segment(item) for item in data["segments"])
    data["source"] = Source(**data["source"])
    data["provenance"] = Provenance(**data["provenance"])
    data["provenances"] = {name: Provenance(**item) for name, item in data["provenances"].items()}
    data["policy"] = Policy(**data["policy"])
    data["filter"] = ShardInfo(**data["filter"]) if data["filter"] else None
    return Manifest(**data)


def _segment(data: dict[str, Any]) -> SegmentInfo:
    shards = tuple(ShardInfo(**shard) for shard in data.pop("shards"))
    hashes = data.pop("hashes")
    return SegmentInfo(**data, shards=shards, hashes=ShardInfo(**hashes) if hashes else None)
