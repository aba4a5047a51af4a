"""Every server that is put under load, started the way its users start it, with one worker."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from _store import feast_peer, rows
from _store.lake import Lake
from _store.load import Target
from _store.processes import PYTHON, SERVER_CORE, free_port, http_ready, running
from _store.publish_job import publish_in_child

_PEERS = Path(__file__).with_name("peers")
OURS = "Forecache"
OURS_FEAST = "Forecache, Feast's format"
FASTAPI, FASTAPI_DICT = "FastAPI, ready bytes", "FastAPI, as in its tutorial"
ASGI, RSGI = "raw ASGI on uvicorn", "raw RSGI on Granian"
FEAST_NAMES = {"sqlite": "Feast, SQLite", "redis": "Feast, Redis"}

Start = Callable[[int, int | None], AbstractContextManager[int]]


@dataclass(frozen=True)
class Surface:
    """Something that answers: its name in the table, and the requests for one key and for many."""

    name: str
    one: tuple[str, str]
    many: tuple[str, str]

    def target(self, workload: str, port: int) -> Target:
        kind, path = self.one if workload == "one" else self.many
        return Target(port, kind, path)


@dataclass(frozen=True)
class Server:
    """A process to start and the surfaces that it offers; `start(port, core)` runs it for the length of a block."""

    name: str
    start: Start
    surfaces: tuple[Surface, ...]


_NATIVE = (("get", f"/v1/{rows.NAME}/"), ("many", f"/v1/{rows.NAME}"))
_TUTORIAL = (("get", f"/tutorial/{rows.NAME}/"), ("many", f"/tutorial/{rows.NAME}"))
_FEAST = (("feast", "/get-online-features"), ("feast", "/get-online-features"))


def reader(home: Path) -> Start:
    """`forecache serve` over a home folder."""

    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        command = [
            PYTHON, "-m", "forecache.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        with running(
            command,
            log=home / "reader.log",
            ready=http_ready(f"http://127.0.0.1:{port}/readyz"),
            core=core,
            environment={"FORECACHE_HOME": str(home)},
        ) as pid:
            yield pid

    return start


def _peer(home: Path, name: str, command: list[str]) -> Start:
    """A peer over the same store; `PORT` in the command stands for its port."""

    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        with running(
            [part.replace("PORT", str(port)) for part in command],
            log=home / f"{name}.log",
            ready=http_ready(f"http://127.0.0.1:{port}/v1/{rows.NAME}/{rows.key_text(0)}"),
            core=core,
            environment={"BENCH_STORE": str(home / "store" / rows.NAME)},
            cwd=_PEERS,
        ) as pid:
            yield pid

    return start


def _uvicorn(application: str) -> list[str]:
    return [
        str(PYTHON), "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "PORT", "--workers", "1",
        "--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--no-access-log", "--log-level", "warning",
        "--no-server-header", "--no-date-header",
    ]  # fmt: skip


def _granian(application: str) -> list[str]:
    return [
        str(PYTHON), "-m", "granian", application, "--interface", "rsgi", "--host", "127.0.0.1", "--port", "PORT",
        "--workers", "1", "--no-ws", "--log-level", "warning",
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


def servers(work: Path, num_keys: int) -> list[Server]:
    """Every server of the HTTP sections, ours first, each over the same rows."""
    home = published_home(work, num_keys)
    found = [
        Server(OURS, reader(home), (Surface(OURS, *_NATIVE), Surface(OURS_FEAST, *_FEAST))),
        Server(
            "FastAPI",
            _peer(home, "fastapi", _uvicorn("fast_api:app")),
            (Surface(FASTAPI, *_NATIVE), Surface(FASTAPI_DICT, *_TUTORIAL)),
        ),
        Server(ASGI, _peer(home, "asgi", _uvicorn("raw_asgi:app")), (Surface(ASGI, *_NATIVE),)),
        Server(RSGI, _peer(home, "rsgi", _granian("raw_rsgi:app")), (Surface(RSGI, *_NATIVE),)),
    ]
    for online_store, repository in load_feast(work, num_keys).items():
        surface = Surface(FEAST_NAMES[online_store], *_FEAST)
        found.append(Server(surface.name, _feast_start(repository), (surface,)))
    return found


def load_feast(work: Path, num_keys: int) -> dict[str, feast_peer.Repository]:
    """Feast's repositories by online store, loaded side by side where they are not yet."""
    names = feast_peer.ONLINE_STORES
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: feast_peer.loaded(work, name, num_keys), names)
        return dict(zip(names, found, strict=True))


def _feast_start(repository: feast_peer.Repository) -> Start:
    @contextlib.contextmanager
    def start(port: int, core: int | None) -> Iterator[int]:
        with repository.redis(), repository.server(port, core) as pid:
            yield pid

    return start


@contextlib.contextmanager
def started(server: Server, *, one_core: bool) -> Iterator[int]:
    """The server under load; yields its port."""
    port = free_port()
    with server.start(port, SERVER_CORE if one_core else None):
        yield port
