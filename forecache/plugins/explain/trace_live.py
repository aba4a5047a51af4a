"""The chain from a live answer to the row of the stream's table, and to the message in Kafka that it comes from."""

from typing import TYPE_CHECKING, Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.cli.commands.get import open_answers
from forecache.cli.output import json_value

if TYPE_CHECKING:
    from forecache.serve.store.live.layer import LiveLayer

_OF_KAFKA = ("kafka_partition", "kafka_offset", "kafka_at", "received_at", "event_day", "late")
_OF_MODEL = ("model_version", "release", "base")


def trace_stream(current: Settings, name: str, key: str) -> dict[str, Any]:
    """The chain of a key that only a stream has: `answer` and `live`, see `live_link`."""
    import json

    from forecache.base.errors import NotFoundError
    from forecache.serve.store import decode_key, parse_key

    with open_answers(name) as answers:
        assert answers.layer is not None
        declared = answers.layer.declared
        key_bytes = parse_key(declared.key, key)
        body = answers.one(key_bytes)
    if body is None:
        raise NotFoundError(
            f"{name} has no key {key!r}.",
            remedy=f"Its keys are values of {', '.join(declared.key.names)} in recent rows of {declared.table}.",
        )
    answer = json.loads(body)
    where = dict(zip(declared.key.names, decode_key(declared.key, key_bytes), strict=True))
    return {"answer": answer, "live": live_link(current, declared, answer, where)}


def live_link(
    current: Settings, declared: "LiveLayer", answer: dict[str, Any], where: dict[str, Any]
) -> dict[str, Any]:
    """The link from a live answer to its row in the stream's table.

    Returns:
        `stream`, `table`, `position`, `event_time`, `verified_through`; from the row of the table `place`,
        `kafka_partition`, `kafka_offset`, `kafka_at`, `received_at`, `late`, its model (`model_version`, `release`,
        `base`) and the other columns as `row`. `missing` has the reason if there is no row.
    """
    link: dict[str, Any] = {"stream": declared.stream, "table": declared.table}
    link |= {name: answer[name] for name in ("position", "event_time", "verified_through")}
    if link["event_time"] is None:
        return link | {"missing": f"no event has come since {answer['base']}, which is merged as of {answer['as_of']}"}
    if link["position"] is None:
        return link | {"missing": "the row is pending: the commit that will hold it has not been made yet"}
    rows = _read_rows(current, declared.table, {"position": link["position"], **where}, link)
    if not rows:
        link.setdefault("missing", f"{declared.table} has no such row")
        return link
    row = {name: json_value(value) if hasattr(value, "isoformat") else value for name, value in rows[-1].items()}
    link["place"] = row.pop("place", None)
    for name in (*_OF_KAFKA, *_OF_MODEL):
        link[name] = row.pop(name, None)
    for name in ("position", "hour"):
        row.pop(name, None)
    return link | {"row": row}


def live_lines(link: dict[str, Any]) -> list[str]:
    """The lines of a link for people."""
    if "missing" in link:
        return [f"not available: {link['missing']}"]
    made = ", ".join(f"{name.replace('_', ' ')} {link[name]}" for name in _OF_MODEL if link[name] not in (None, ""))
    late = ", of a day that a night had already been made from" if link["late"] else ""
    return [
        ", ".join(f"{name}={value}" for name, value in link["row"].items()),
        f"Kafka partition {link['kafka_partition']}, offset {link['kafka_offset']}, at {link['kafka_at']}",
        f"event at {link['event_time']}{late}; here at {link['received_at']}",
        f"made by {made}" if made else "",
        f"the live layer was last found equal to the table at version {link['verified_through']}"
        if link["verified_through"] >= 0
        else "the live layer has not been compared with the table yet",
    ]


def live_title(link: dict[str, Any]) -> str:
    if link["event_time"] is None:
        return f"no event of the stream {link['stream']}"
    if link["position"] is None:
        return f"pending row of the stream {link['stream']}"
    return f"streamed row in {link['table']} at position {link['position']}, place {link.get('place', '?')}"


def _read_rows(current: Settings, table: str, where: dict[str, Any], link: dict[str, Any]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq
    from deltalake.exceptions import DeltaError

    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.tables import open_table

    try:
        condition = pq.filters_to_expression([(name, "=", value) for name, value in where.items()])
        found = open_dataset(open_table(current, table)).to_table(filter=condition)
    except (ForecacheError, DeltaError, FileNotFoundError) as error:
        link["missing"] = str(error).splitlines()[0]
        return []
    rows: list[dict[str, Any]] = found.to_pylist()
    return sorted(rows, key=lambda row: row["place"])
