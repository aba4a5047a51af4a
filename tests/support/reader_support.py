"""A store made from Python rows, and a reader started as users start it, for the tests of the reader."""

import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
from free_ports import free_port

from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import write_pointer
from forecache.serve.store import Field, KeyColumn, KeySchema, Provenance, SegmentInfo, Store, encode_key
from forecache.serve.store.layout import shard_file
from forecache.serve.store.manifest import Manifest, StalePolicy, TableSource, current_timestamp
from forecache.serve.store.pointer import Pointer, new_store_id
from forecache.serve.store.segment.writer import write_shard

STRING_KEY = KeySchema((KeyColumn("customer_id", "string"),))
FIELDS = (Field("churn_probability", "double"), Field("risk_segment", "string"))
FLAG = StalePolicy(36.0, "flag")
MODEL = Provenance("churn", 3, 7, "2026-11-25T01:00:00.000000Z", "run-3")


def value_json(row: Mapping[str, Any]) -> bytes:
    """The JSON of a value, its lists marked as the store marks them."""
    members = [orjson.dumps(name) + b":" + _json(value) for name, value in row.items()]
    return b"{" + b",".join(members) + b"}"


def _json(value: Any) -> bytes:
    if not isinstance(value, list):
        return orjson.dumps(value)
    return b"[" + b"\t,".join(map(orjson.dumps, value)) + (b"\r]" if value else b"]")


def yesterday() -> str:
    return (datetime.now(timezone.utc).date() - timedelta(days=1)).isoformat()


def churn_rows(num_rows: int, *, shift: float = 0.0) -> dict[Any, dict[str, Any]]:
    """Rows by key; the segment is the one that the shipped pipeline declares for the probability, before the shift."""
    probabilities = [(index * 7919 % 1000) / 1000 for index in range(num_rows)]
    return {
        f"{index:05d}": {
            "churn_probability": round(probability + shift, 6),
            "risk_segment": ("low", "medium", "high", "lost")[bisect_right((0.5, 0.8, 0.95), probability)],
        }
        for index, probability in enumerate(probabilities)
    }


def write_version(
    store_path: Path,
    pipeline: str,
    rows: Mapping[Any, Mapping[str, Any] | bytes],
    *,
    key: KeySchema = STRING_KEY,
    fields: tuple[Field, ...] = FIELDS,
    as_of: str = "",
    policy: StalePolicy = FLAG,
    provenance: Provenance = MODEL,
    carried: Mapping[Any, Provenance] | None = None,
    **more: Any,
) -> int:
    """Write a full version and make it current; its number.

    Args:
        rows: By key, the value; or its entry, as bytes.
        more: Further fields of the manifest.
    """
    layout = Store(store_path / pipeline).layout
    layout.create()
    carried = carried or {}
    pointer = Store(store_path / pipeline).pointer()
    last, store_id = pointer.last, pointer.store or new_store_id()
    version = last + 1
    segment_id = f"{version:08d}-base-{store_id[:8]}"
    folder = layout.segment(segment_id)
    folder.mkdir()
    entries = [
        (value if isinstance(value, bytes) else value_json(value))
        + (b"\n" + carried[name].id.encode() if name in carried else b"")
        for name, value in rows.items()
    ]
    keys = [encode_key(key, name) for name in rows]
    shard = write_shard(
        folder / shard_file(0), pa.array(keys, pa.binary()), pa.array(entries, pa.binary()), indexed=True
    )
    manifest = Manifest(
        pipeline=pipeline,
        store=store_id,
        version=version,
        parent=last or None,
        kind="full",
        segments=(SegmentInfo(segment_id, "base", len(rows), 0, (shard,)),),
        rows=len(rows),
        tombstones=0,
        content_hash="0" * 32,
        key=key,
        fields=fields,
        source=TableSource(f"predictions_{pipeline}", f"memory:{pipeline}", version, as_of or yesterday()),
        provenance=provenance,
        provenances={each.id: each for each in carried.values()},
        carried=len(carried),
        policy=policy,
        published_at=current_timestamp(),
        code_version="test",
        run_id="test",
        inputs=f"test-{version}",
        **more,
    )
    layout.lease(version).touch()
    write_durably(layout.manifest(version), manifest.to_json())
    write_pointer(layout, Pointer(store_id, version, None, version, version, moves=pointer.advance().moves))
    return version


class RunningReader:
    """A reader in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_ready(self, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the reader ended with {self.process.returncode}"
            try:
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the reader is not ready")

    def workers(self) -> list[int]:
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        return [int(pid) for pid in found]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


_SCRIPT = """
import os, sys, orjson
from contextlib import nullcontext
from forecache.base.settings import load_settings
from forecache.serve.reader import serve
from forecache.realtime.serve import make_extension
arguments = orjson.loads(sys.argv[1])
drain_s, project_part = arguments.pop("drain_s"), arguments.pop("project_part", False)
settings = load_settings(**arguments)
beside = nullcontext(None)
if project_part:
    from forecache.plugins.status.sidecar import run_status_sidecar
    os.environ["FORECACHE_HOME"] = arguments["home"]
    beside = run_status_sidecar()
with beside as part:
    serve(settings, drain_s=drain_s, extensions=[make_extension, *([part] if part else [])])
"""


def start_reader(
    settings: Settings,
    *,
    drain_s: float = 0.1,
    wait: bool = True,
    within: Sequence[str] = (),
    port: int | None = None,
    **overrides: Any,
) -> RunningReader:
    """Start a reader; `within` is a command that runs it, in the place of its own process."""
    port = port or free_port()
    arguments = {"home": str(settings.home), "reader_port": port, "drain_s": drain_s, **overrides}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    process = subprocess.Popen(
        [*within, sys.executable, "-c", _SCRIPT, orjson.dumps(arguments).decode()], env=environment, text=True
    )
    reader = RunningReader(process, port)
    if wait:
        try:
            reader.wait_until_ready()
        except BaseException:
            process.kill()
            raise
    return reader


@contextmanager
def running_reader(settings: Settings, **overrides: Any) -> Iterator[RunningReader]:
    reader = start_reader(settings, **overrides)
    try:
        yield reader
    finally:
        reader.stop()


def today() -> date:
    return datetime.now(timezone.utc).date()


def served(reader: RunningReader, pipeline: str = "churn") -> int | None:
    """The version that a reader serves, None where it serves none."""
    response = httpx.get(f"{reader.url}/v1/{pipeline}")
    return response.json()["store_version"] if response.status_code == 200 else None
