"""Fixtures that every test folder shares: settings with a home of their own, and one Spark session per worker."""

import hashlib
import importlib
import inspect
import os
import pickle
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from forecache.base.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# The demo's dates are those of the home that its declarations are imported in: here of none, and not of the checkout's.
with pytest.MonkeyPatch.context() as patched:
    patched.setenv("FORECACHE_HOME", os.devnull)
    importlib.import_module("dagster_project.purchases")

pytest_plugins = ["allowed_skips", "kafka"]

# A thread of OpenMP that waits for another sleeps instead of counting in a loop. Where more processes than cores run,
# as in tests, a step of a small network takes 75 ms of CPU with two threads that count, and 5 ms with two that sleep.
# Libraries read this when they are imported; processes that tests start have it, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Hypothesis's own profile for CI would try the same examples for ever. A busy machine is no failure.
hypothesis_settings.register_profile(
    "forecache", derandomize=False, print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("forecache")


@pytest.fixture(scope="session", autouse=True)
def mlflow_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test saves without naming a server goes to a folder of its own, not into the checkout."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_flushed() -> Iterator[None]:
    """This process waits for no disk: a flush takes 2 to 5 ms, and each commit of MLflow and of Dagster has some.

    No test cuts the power. A killed process loses nothing by it, and processes that tests start flush as ever.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def without_flushes(connection: Any, _: object) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("pragma synchronous = off")

    event.listen(Engine, "connect", without_flushes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", os.fstat)  # a descriptor that is none is an error as before
        yield
    event.remove(Engine, "connect", without_flushes)


@pytest.fixture(scope="session", autouse=True)
def patient_requests() -> Iterator[None]:
    """Requests of tests wait for a minute, not for the seconds of httpx and our client: machines may stand still."""
    import httpx

    from forecache.serve.reader.client import ClientBase

    usual = inspect.signature(httpx.get).parameters["timeout"].default
    with pytest.MonkeyPatch.context() as patched:
        for name in ("connect", "read", "write", "pool"):
            patched.setattr(usual, name, 60.0)
        for name, limit_s in (("timeout_s", 60.0), ("deadline_s", 240.0)):
            patched.setitem(ClientBase.__init__.__kwdefaults__, name, limit_s)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_once() -> Iterator[None]:
    """Clients of httpx with equal certificates share them: each would read all that are trusted, 35 ms of CPU."""
    from httpx._transports import default

    read, there = default.create_ssl_context, dict[tuple[str | None, ...], ssl.SSLContext]()

    def once(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None or not trust_env:
            return read(verify, cert, trust_env)
        key = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        if key not in there:
            there[key] = read()
        return there[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(default, "create_ssl_context", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def plots_once() -> Iterator[None]:
    """A plot of the same data is drawn once for all tests: they register the same few models hundreds of times."""
    from forecache.base import reports as plots
    from forecache.plugins.model_reports import plots as evaluation_plots

    draw, drawn = plots.draw_svg, dict[bytes, str]()

    def once(name: str, plot: Callable[..., None], data: Any, height: float | None) -> str:
        about = pickle.dumps((name, plot.__module__, plot.__qualname__, data, height))
        key = hashlib.sha256(about).digest()
        if key not in drawn:
            drawn[key] = draw(name, plot, data, height)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "draw_svg", once)
        patched.setattr(evaluation_plots, "draw_svg", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def warm_trainers() -> Iterator[None]:
    """Trainings of this process are forks of a server that has imported their libraries, which takes seconds of CPU.

    Tests of each kind of trainer start it cold, as users do: see `cold_agents`. So do all commands.
    """
    from warm_agents import warm_agents

    with warm_agents("forecache.models.training.process"):
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", spark_master="local[2]", spark_driver_memory="1g")


@pytest.fixture(scope="session", autouse=True)
def _jars_of_kafka_in_each_session() -> Iterator[None]:
    """Give Kafka's jars to the session of this process, also if a test starts it that does not ask for `spark`."""
    from forecache.kit.spark import session

    def start(settings: Settings, archive_to: Path | None, more_jars: Sequence[Path]) -> "SparkSession":
        from forecache.plugins.spark_stream.engine import kafka_jars

        return begin(settings, archive_to, more_jars or kafka_jars(settings))

    with pytest.MonkeyPatch.context() as patch:
        begin = session._start
        patch.setattr(session, "_start", start)
        yield


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    from forecache.kit.spark.session import spark_session, stop_spark

    home = tmp_path_factory.mktemp("spark") / "home"
    # Many tests in one session are worth the second compiler: without it they cost half as much CPU again.
    jvm = "long" if "PYTEST_XDIST_WORKER" in os.environ else "auto"
    settings = load_settings(home=home, spark_master="local[2]", spark_driver_memory="1g", spark_jvm=jvm)
    yield spark_session(settings)
    stop_spark()
