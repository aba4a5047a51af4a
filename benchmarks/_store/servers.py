"""Every server that is put under load, started the way its users start it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from _store import backends, feast_peer, rows
from _store.lake import Lake
from _store.load import Target
from _store.processes import PYTHON, SERVER_CORE, free_port, http_ready, running
from _store.publish_job import publish_in_child

_PEERS = Path(__file__).with_name("peers")
OURS = "Forecache"
OURS_FEAST = "Forecache, Feast's format"
OURS_TOKENS = "Forecache, with tokens"
OURS_FEAST_TOKENS = "Forecache, Feast's format, with tokens"
OURS_TWO = "Forecache, 2 workers"
OURS_FEAST_TWO = "Forecache, Feast's format, 2 workers"
MINE = (OURS, OURS_FEAST, OURS_TOKENS, OURS_FEAST_TOKENS, OURS_TWO, OURS_FEAST_TWO)
FASTAPI, FASTAPI_DICT = "FastAPI, ready bytes", "FastAPI, as in its tutorial"
ASGI, RSGI = "raw ASGI on uvicorn", "raw RSGI on Granian"
RSGI_TWO = "raw RSGI on Granian, 2 workers"
FEAST_NAMES = {"sqlite": "Feast, SQLite", "redis": "Feast, Redis"}
FEAST_TWO = "Feast, Redis, 2 workers"
REDIS, REDIS_BLOCKING = "Redis behind RSGI, asyncio", "Redis behind RSGI, blocking client"
POSTGRES, SQLITE, ROCKSDB = "PostgreSQL behind RSGI", "SQLite behind RSGI", "RocksDB behind RSGI"
DIRECT = {"redis": REDIS, "postgres": POSTGRES, "sqlite": SQLITE, "rocksdb": ROCKSDB}
STORES = (REDIS, REDIS_BLOCKING, POSTGRES, SQLITE, ROCKSDB)

Start = Callable[[int, int | None], AbstractContextManager[int]]
Requests = tuple[str, str]


@dataclass(frozen=True)
class Surface:
    """Something that answers: its name in the table, the requests for one key and for many, and a bearer token."""

    name: str
    one: Requests
    many: Requests
    token: str = ""

    def target(self, workload: str, port: int) -> Target:
        kind, path = self.one if workload == "one" else self.many
        return Target(port, kind, path, self.token)


@dataclass(frozen=True)
class Server:
    """A process to start and the surfaces that it offers; `start(port, core)` runs it for the length of a block.

    Attributes:
        workers: Its processes. More than one are not held to one core.
    """

    name: str
    start: Start
    surfaces: tuple[Surface, ...]
    workers: int = 1


_NATIVE = (("get", f"/v1/{rows.NAME}/"), ("many", f"/v1/{rows.NAME}"))
_TUTORIAL = (("get", f"/tutorial/{rows.NAME}/"), ("many", f"/tutorial/{rows.NAME}"))
_BLOCKING = (("get", f"/blocking/{rows.NAME}/"), ("many", f"/blocking/{rows.NAME}"))
_FEAST = (("feast", "/get-online-features"), ("feast", "/get-online-features"))


def reader(home: Path, *, workers: int = 1, tokens: Path | None = None) -> Start:
    """`forecache serve` over a home folder."""

    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        command = [PYTHON, "-m", "forecache.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
        environment = {"FORECACHE_HOME": str(home)}
        if tokens is not None:
            environment["FORECACHE_READER_TOKENS"] = str(tokens)
        with running(
            [*command, "--workers", str(workers)],
            log=home / "reader.log",
            ready=http_ready(f"http://127.0.0.1:{port}/readyz"),
            core=core,
            environment=environment,
        ) as pid:
            yield pid

    return start


def _peer(home: Path, name: str, command: list[str], environment: dict[str, str] | None = None) -> Start:
    """A peer over the same store; `PORT` in the command stands for its port."""

    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        with running(
            [part.replace("PORT", str(port)) for part in command],
            log=home / f"{name}.log",
            ready=http_ready(f"http://127.0.0.1:{port}/v1/{rows.NAME}/{rows.key_text(0)}"),
            core=core,
            environment={"BENCH_STORE": str(home / "store" / rows.NAME), **(environment or {})},
            cwd=_PEERS,
        ) as pid:
            yield pid

    return start


def direct_handler(home: Path, backend: str, place: str) -> Start:
    """The small handler over another store that runs already."""
    environment = {"BENCH_BACKEND": backend, "BENCH_BACKEND_AT": place, "BENCH_PEERS": str(backends.PEERS)}
    return _peer(home, backend, _granian("direct:app"), environment)


def _direct(home: Path, work: Path, backend: str, num_keys: int) -> Start:
    """The small handler over another store, which is loaded anew."""

    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        with (
            backends.loaded(backend, work / "backends", num_keys, core=core) as place,
            direct_handler(home, backend, place)(port, core) as pid,
        ):
            yield pid

    return start


def _uvicorn(application: str) -> list[str]:
    return [
        str(PYTHON), "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "PORT", "--workers", "1",
        "--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--no-access-log", "--log-level", "warning",
        "--no-server-header", "--no-date-header",
    ]  # fmt: skip


def _granian(application: str, workers: int = 1) -> list[str]:
    return [
        str(PYTHON), "-m", "granian", application, "--interface", "rsgi", "--host", "127.0.0.1", "--port", "PORT",
        "--workers", str(workers), "--no-ws", "--log-level", "warning",
    ]  # fmt: skip


def published_home(work: Path, num_keys: int) -> Path:
    """A home folder whose store serves the first night of `num_keys` keys; published once, then kept."""
    home = work / f"http-{num_keys}"
    stamp = home / "published"
    if not stamp.exists():
        Lake(home, num_keys).create()
        publish_in_child(home, full=True)
        stamp.touch()
    return home


def drop_published_home(work: Path, num_keys: int) -> None:
    """Forget the published store, so that the next run publishes with the code as it is."""
    shutil.rmtree(work / f"http-{num_keys}", ignore_errors=True)


def _token(home: Path) -> tuple[Path, str]:
    """A file of tokens and a token in it."""
    from forecache.serve.reader.tokens import create_token

    file, kept = home / "tokens.json", home / "token"
    if not kept.exists():
        token, _ = create_token(file, "bench", ("*",))
        kept.write_text(token)
        kept.chmod(0o600)
    return file, kept.read_text()


def servers(work: Path, num_keys: int) -> list[Server]:
    """Every server of the HTTP sections, ours first, each over the same rows."""
    home = published_home(work, num_keys)
    tokens, token = _token(home)
    found = [
        Server(OURS, reader(home), (Surface(OURS, *_NATIVE), Surface(OURS_FEAST, *_FEAST))),
        Server(
            OURS_TOKENS,
            reader(home, tokens=tokens),
            (Surface(OURS_TOKENS, *_NATIVE, token), Surface(OURS_FEAST_TOKENS, *_FEAST, token)),
        ),
        Server(
            OURS_TWO,
            reader(home, workers=2),
            (Surface(OURS_TWO, *_NATIVE), Surface(OURS_FEAST_TWO, *_FEAST)),
            workers=2,
        ),
        Server(
            "FastAPI",
            _peer(home, "fastapi", _uvicorn("fast_api:app")),
            (Surface(FASTAPI, *_NATIVE), Surface(FASTAPI_DICT, *_TUTORIAL)),
        ),
        Server(ASGI, _peer(home, "asgi", _uvicorn("raw_asgi:app")), (Surface(ASGI, *_NATIVE),)),
        Server(RSGI, _peer(home, "rsgi", _granian("raw_rsgi:app")), (Surface(RSGI, *_NATIVE),)),
        Server(RSGI_TWO, _peer(home, "rsgi2", _granian("raw_rsgi:app", 2)), (Surface(RSGI_TWO, *_NATIVE),), workers=2),
    ]
    for backend, name in DIRECT.items():
        surfaces = (Surface(name, *_NATIVE),)
        if backend == "redis":
            surfaces += (Surface(REDIS_BLOCKING, *_BLOCKING),)
        found.append(Server(name, _direct(home, work, backend, num_keys), surfaces))
    for online_store, repository in load_feast(work, num_keys).items():
        surface = Surface(FEAST_NAMES[online_store], *_FEAST)
        found.append(Server(surface.name, _feast_start(repository), (surface,)))
        if online_store == "redis":
            found.append(Server(FEAST_TWO, _feast_start(repository, 2), (Surface(FEAST_TWO, *_FEAST),), workers=2))
    return found


def load_feast(work: Path, num_keys: int) -> dict[str, feast_peer.Repository]:
    """Feast's repositories by online store, loaded side by side where they are not yet."""
    names = feast_peer.ONLINE_STORES
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: feast_peer.loaded(work, name, num_keys), names)
        return dict(zip(names, found, strict=True))


def _feast_start(repository: feast_peer.Repository, workers: int = 1) -> Start:
    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        with repository.redis(), repository.server(port, core, workers) as pid:
            yield pid

    return start


@contextlib.contextmanager
def started(server: Server, *, one_core: bool = False) -> Iterator[int]:
    """The server under load; yields its port."""
    port = free_port()
    with server.start(port, SERVER_CORE if one_core else None):
        yield port
