"""The file LIVE: the declaration of a store's live layer (stream, table, key, fields); a store with it is live."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from forecache.base.errors import UnavailableError
from forecache.base.files import write_durably
from forecache.base.table_names import NAME
from forecache.kit.versioned.checksummed_json import dump_with_checksum, load_with_checksum
from forecache.serve.store.fields import Field
from forecache.serve.store.keys import KeyColumn, KeySchema
from forecache.serve.store.layout import StoreLayout

FORMAT = 1


@dataclass(frozen=True)
class LiveLayer:
    """The live layer of one store.

    Attributes:
        stream: Name of the stream.
        table: Name of its Delta table; offsets of rows are its versions.
        kind: "rows": a live row replaces a version's; "tiles": it is merged with the version's row.
        key: Key of the store.
        fields: Served fields of a row.
        plan: Of tiles, the plan of merging: JSON of the windows' plan.
        event_time: Column of the table with the time of the event.
        max_lag_s: Greatest lag behind the table at which a reader that has just started is ready; None: any.
        keep_h: Hours of event time for which rows are kept; None: until a version's cut-off includes them.
    """

    stream: str
    table: str
    kind: Literal["rows", "tiles"]
    key: KeySchema
    fields: tuple[Field, ...]
    event_time: str = ""
    max_lag_s: float | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    keep_h: float | None = None
    format: int = FORMAT

    @property
    def replaces_rows(self) -> bool:
        """True if rows replace those of a version; False if they are of keys that no version has, or are merged."""
        return self.kind == "rows" and self.keep_h is None

    @property
    def values_id(self) -> str:
        """Hash of all that the values of rows depend on: values with another hash must not be used."""
        parts = (
            self.kind,
            self.replaces_rows,
            asdict(self.key),
            [asdict(each) for each in self.fields],
            self.event_time,
            self.plan,
        )
        return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())

    def to_json(self) -> bytes:
        return dump_with_checksum(json.loads(json.dumps(asdict(self))))


def layer_from_json(content: bytes, *, what: str = "The file LIVE") -> LiveLayer:
    """Read the file.

    Raises:
        DamagedError: Its bytes are not those that were written.
        UnavailableError: A Forecache with another format wrote it.
    """
    data = load_with_checksum(content, what=what)
    if data.get("format") != FORMAT:
        raise UnavailableError(
            f"{what} has the format {data.get('format')}.", remedy=f"This Forecache reads format {FORMAT}: upgrade it."
        )
    data["key"] = KeySchema(tuple(KeyColumn(**column) for column in data["key"]["columns"]))
    data["fields"] = tuple(Field(**item) for item in data["fields"])
    return LiveLayer(**data)


def read_layer(layout: StoreLayout) -> LiveLayer | None:
    """The live layer of a store, None if it has none; raises as `layer_from_json`."""
    try:
        content = layout.live.read_bytes()
    except FileNotFoundError:
        return None
    return layer_from_json(content, what=f"The file {layout.live}")


def list_stores_with_layers(store_path: Path) -> list[str]:
    """Names of the stores in a folder that have a live layer, sorted."""
    found = (path.parent.name for path in store_path.glob("*/LIVE"))
    return sorted(name for name in found if NAME.fullmatch(name))


def write_layer(layout: StoreLayout, layer: LiveLayer) -> None:
    """Write the file LIVE of a store, unless it is equal already."""
    layout.streamed_folder.mkdir(parents=True, exist_ok=True)
    content = layer.to_json()
    if not layout.live.exists() or layout.live.read_bytes() != content:
        write_durably(layout.live, content)
