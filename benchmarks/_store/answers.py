"""What the servers answer, decoded: do all of them say the same about the same keys, and in how many bytes?"""

import http.client
import json
from typing import Any

from _store import rows
from _store.load import Target
from _store.processes import BenchmarkError

FEATURES = [f"{rows.NAME}:{name}" for name in rows.FIELDS]


def ask(target: Target, keys: list[str]) -> tuple[bytes, int]:
    """One request as the load generator sends it; the body of the answer, and the bytes of all of it."""
    port, kind, path = target.port, target.kind, target.path
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        if kind == "get":
            connection.request("GET", path + keys[0] + target.suffix, headers=target.headers)
        else:
            headers = {"Content-Type": "application/json", **target.headers}
            connection.request("POST", path, body_of(kind, keys), headers)
        answer = connection.getresponse()
        body = answer.read()
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "".join(
            f"{k}: {v}\r\n" for k, v in answer.getheaders()
        )
        if answer.status != 200:
            raise BenchmarkError(f"Port {port} answered {answer.status} to {kind} {path}: {body[:300]!r}")
        return body, len(head) + 2 + len(body)
    finally:
        connection.close()


def body_of(kind: str, keys: list[str]) -> str:
    if kind == "feast":
        return json.dumps({"features": FEATURES, "entities": {rows.KEY: keys}}, separators=(",", ":"))
    return json.dumps({"keys": keys}, separators=(",", ":"))


def decode(kind: str, body: bytes, keys: list[str]) -> list[dict[str, Any] | None]:
    """The served values of every key, in the order of the keys; None where the answer says that it has none."""
    answer = json.loads(body)
    if kind == "get":
        _require(answer["key"] == keys[0], f"the answer is about {answer['key']}, not {keys[0]}")
        return [answer["value"]]
    if kind == "many":
        _require([row["key"] for row in answer["results"]] == keys, "the answer has other keys or another order")
        return [row["value"] if row["found"] else None for row in answer["results"]]
    columns = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    _require(columns[rows.KEY]["values"] == keys, "the answer has other keys or another order")
    found: list[dict[str, Any] | None] = []
    for row in range(len(keys)):
        present = all(columns[name]["statuses"][row] == "PRESENT" for name in rows.FIELDS)
        found.append({name: columns[name]["values"][row] for name in rows.FIELDS} if present else None)
    return found


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BenchmarkError(f"A server does not answer what was asked: {otherwise}.")


def require_equal(name: str, keys: list[str], found: list[dict[str, Any] | None]) -> None:
    """Refuse to measure a server that does not answer exactly what the source table holds.

    Raises:
        BenchmarkError: A value differs in any bit, or a key is missing.
    """
    for key, values in zip(keys, found, strict=True):
        wanted = rows.expected(int(key))
        if values != wanted:
            raise BenchmarkError(f"{name} answers {values} for the key {key}, where the source has {wanted}.")


def check(name: str, target: Target, keys: list[str], batch: int) -> dict[str, float]:
    """Compare the answers about `keys`, `batch` a request, with the source; mean bytes of body and whole answer."""
    bodies, wholes = [], []
    for start in range(0, len(keys) - batch + 1, batch):
        asked = keys[start : start + batch]
        body, whole = ask(target, asked)
        require_equal(name, asked, decode(target.kind, body, asked))
        bodies.append(len(body))
        wholes.append(whole)
    return {
        "body_bytes": sum(bodies) / len(bodies),
        "answer_bytes": sum(wholes) / len(wholes),
        "keys_checked": len(keys),
    }
