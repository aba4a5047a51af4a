"""Stores that a sceptic would take instead, behind one small handler: Redis, PostgreSQL, SQLite, RocksDB.

Each holds the ready JSON of every key, so that a look-up is all they do; Redis and PostgreSQL listen on a Unix socket,
which is faster than TCP, and write what they are told to write but no more.
"""

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from _store import rows
from _store.processes import ROOT, BenchmarkError, run_checked, running

PEERS = ROOT / ".tools" / "peers"
NAMES = ("redis", "postgres", "sqlite", "rocksdb")
_BLOCK = 200_000
_PSQL = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1"]


def json_values(table: pa.Table) -> pa.Array:
    """The JSON of each row's output columns, made by Arrow: a loader written in Python would be the bottleneck."""
    parts: list[object] = ["{"]
    for place, name in enumerate(rows.FIELDS):
        text = name == rows.FIELDS[3]
        quote = '"' if text else ""
        column = table[name].combine_chunks() if isinstance(table[name], pa.ChunkedArray) else table[name]
        parts += [f'{"," if place else ""}"{name}":{quote}', column if text else column.cast(pa.string()), quote]
    return pc.binary_join_element_wise(*parts, "}", "")


def blocks(num_keys: int, stamp: int = 0) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Keys and JSON of the first night, block by block."""
    for start in range(0, num_keys, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, num_keys))
        table = rows.table(index, np.full(len(index), stamp, np.uint16), rows.FIRST_NIGHT).combine_chunks()
        yield table[rows.KEY].chunk(0), json_values(table)


# Redis ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_server(folder: Path, *, core: int | None = None) -> Iterator[Path]:
    """A Redis in memory on a Unix socket, which it yields."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fc-redis-") as short:
        socket = Path(short) / "redis"  # socket paths are short
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "",
                   "--appendonly", "no"]  # fmt: skip
        with running(command, log=folder / "redis.log", ready=socket.exists, core=core):
            yield socket


def redis_commands(keys: pa.Array, values: pa.Array) -> bytes:
    """SET commands in Redis's protocol, for `redis-cli --pipe`."""
    lengths = pc.binary_length(values).cast(pa.string())
    joined = pc.binary_join_element_wise(
        "*3\r\n$3\r\nSET\r\n$8\r\n", keys, "\r\n$", lengths, "\r\n", values, "\r\n", ""
    )
    # All values one after the other are the whole buffer.
    offsets = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return bytes(memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]])


def pipe_command(socket: str) -> list[str]:
    return ["redis-cli", "-s", socket, "--pipe"]


def pipe(socket: Path, file: Path) -> None:
    """Send a file of commands through `redis-cli --pipe`."""
    with open(file, "rb") as commands:
        said = run_checked(pipe_command(str(socket)), stdin=commands)
    if "errors: 0" not in said:
        raise BenchmarkError(f"redis-cli --pipe says {said!r}.")


# PostgreSQL -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres_server(log: Path, *, core: int | None = None) -> Iterator[Path]:
    """An empty PostgreSQL in a folder of its own, run by an unprivileged user; yields the folder of its socket."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not found:
        raise BenchmarkError("PostgreSQL is missing; install it: apt-get install -y postgresql")
    folder = Path(tempfile.mkdtemp(prefix="fc-pg-"))
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if prefix:
        shutil.chown(folder, "postgres", "postgres")
    folder.chmod(0o755)
    data = folder / "data"
    try:
        user = ["--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C", "--no-sync"]
        run_checked([*prefix, found[-1] / "initdb", "-D", data, *user], cwd=folder)
        # No WAL where COPY follows CREATE in one transaction; the table is flushed instead.
        options = {
            "unix_socket_directories": folder, "listen_addresses": "", "shared_buffers": "512MB",
            "wal_level": "minimal", "max_wal_senders": 0, "max_wal_size": "4GB", "maintenance_work_mem": "256MB",
        }  # fmt: skip
        command = [*prefix, str(found[-1] / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]

        def ready() -> bool:
            with contextlib.suppress(BenchmarkError):
                return bool(psql(folder, "select 1"))
            return False

        with running(command, log=log, ready=ready, core=core, cwd=folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def psql(folder: Path, *commands: str) -> str:
    """Run commands in one transaction."""
    given = [part for command in commands for part in ("-c", command)]
    return run_checked([*_PSQL, "-h", folder, "-U", "bench", "postgres", *given])


def update_command(folder: str, file: Path) -> list[str]:
    """Replace the values of a file's keys in one transaction."""
    commands = (
        "create temporary table changed (like predictions)",
        f"\\copy changed from '{file}'",
        "update predictions set value = changed.value from changed where predictions.key = changed.key",
    )
    given = [part for command in commands for part in ("-c", command)]
    return [*_PSQL, "-h", folder, "-U", "bench", "postgres", *given]


def text_lines(columns: list[pa.Array]) -> bytes:
    """Rows in the text format of COPY; no value holds a tab, a newline or a backslash."""
    joined = pc.binary_join_element_wise(
        pc.binary_join_element_wise(*(each.cast(pa.string()) for each in columns), "\t"), "", "\n"
    )
    offsets = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return bytes(memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]])


# All ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def loaded(name: str, folder: Path, num_keys: int, *, core: int | None = None) -> Iterator[str]:
    """A store with the first night of `num_keys` keys while the block runs; yields where the handler finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{num_keys}.rows"
    if name == "redis":
        if not file.exists():
            file.write_bytes(b"".join(redis_commands(*block) for block in blocks(num_keys)))
        with redis_server(folder, core=core) as socket:
            pipe(socket, file)
            yield str(socket)
    elif name == "postgres":
        if not file.exists():
            file.write_bytes(b"".join(text_lines(list(block)) for block in blocks(num_keys)))
        with postgres_server(folder / "postgres.log", core=core) as socket:
            psql(socket, "create table predictions (key text not null, value text not null)",
                 f"\\copy predictions from '{file}'", "alter table predictions add primary key (key)")  # fmt: skip
            run_checked(
                ["psql", "-X", "-q", "-h", socket, "-U", "bench", "postgres", "-c", "vacuum analyze predictions"]
            )
            yield str(socket)
    elif name == "sqlite":
        database = folder / f"sqlite-{num_keys}.db"
        if not database.exists():
            write_sqlite(database, num_keys)
        yield str(database)
    else:
        database = folder / f"rocksdb-{num_keys}"
        if not database.exists():
            _write_rocksdb(database, num_keys)
        yield str(database)


def write_sqlite(database: Path, num_keys: int) -> None:
    """Write the first night of `num_keys` keys into a new SQLite file."""
    part = database.with_suffix(".part")
    part.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(part)) as connection:
        connection.execute("create table predictions (key text primary key, value blob) without rowid")
        for keys, values in blocks(num_keys):
            pairs = zip(keys.to_pylist(), values.cast(pa.binary()).to_pylist(), strict=True)
            connection.executemany("insert into predictions values (?, ?)", pairs)
        connection.commit()
    part.rename(database)


def _write_rocksdb(database: Path, num_keys: int) -> None:
    sys.path.append(str(PEERS))
    from rocksdict import Options, Rdict

    part = database.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    store = Rdict(str(part), Options(raw_mode=True))
    for keys, values in blocks(num_keys):
        for key, value in zip(keys.to_pylist(), values.cast(pa.binary()).to_pylist(), strict=True):
            store[key.encode()] = value
    store.flush()
    store.compact_range(None, None)
    store.close()
    part.rename(database)
