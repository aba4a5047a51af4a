"""A cluster on one machine: an object store, PostgreSQL, Kafka, Spark, HAProxy, Dagster, readers, and machines."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancers import READERS, haproxy
from free_ports import free_port
from kafka import KafkaBroker
from spark_cluster import Cluster as SparkCluster
from store_services import minio_server, postgres_server

from _cluster.control import serve_control
from _cluster.launcher import FOLDER_VARIABLE
from _cluster.machines import NAMESPACES, Machines
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings

BUCKET = "forecache"
_WORKERS = 2
_SPARK = {
    "spark.cores.max": "2",
    "spark.executor.memory": "512m",
    "spark.sql.shuffle.partitions": "2",  # the data are small
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "2",
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        environment: Variables of its machines, without those of their disks.
        address: Of the load balancer before the readers.
        webserver: Address of Dagster's UI; "" without Dagster.
    """

    folder: Path
    machines: Machines
    environment: Mapping[str, str]
    address: str
    webserver: str
    kafka: KafkaBroker
    reader_ports: Sequence[int]

    def settings(self, home: Path) -> Settings:
        """Settings of a process outside of its machines, with a home of its own."""
        given: dict[str, Any] = {
            name.removeprefix("FORECACHE_").lower(): value
            for name, value in self.environment.items()
            if name.startswith("FORECACHE_")
        }
        for name in ("storage_options", "spark_conf"):
            given[name] = json.loads(given[name])
        return load_settings(home=home, **given)

    def settings_alone(self, home: Path) -> tuple[Settings, dict[str, str]]:
        """Settings of a machine that shares nothing but Kafka, and its variables."""
        shared = ("LANDING", "LAKE", "CHECKPOINTS", "REMOTE", "MLFLOW", "DAGSTER", "STORAGE", "SPARK_MASTER")
        environment = {
            name: value
            for name, value in self.machines.environment.items()
            if not (name.startswith("FORECACHE_") and any(word in name for word in shared))
        }
        environment |= {"FORECACHE_HOME": str(home), "TMPDIR": str(home.parent), "FORECACHE_SPARK_MASTER": "local[2]"}
        given = {"project": environment["FORECACHE_PROJECT"], "kafka_brokers": environment["FORECACHE_KAFKA_BROKERS"]}
        return load_settings(home=home, **given), environment


@contextmanager
def run_cluster(
    folder: Path,
    *,
    project: str,
    paths: Sequence[str] = (),
    readers: int = 3,
    has_dagster: bool = True,
    has_spark: bool = True,
    say: Say = lambda text: None,
) -> Iterator[Cluster]:
    """Start everything, and stop it at the end.

    Args:
        folder: Of the servers' data and of logs; emptied by the caller.
        paths: Folders that Python imports the project from.
        readers: At most three, as HAProxy's shipped configuration has them.
        has_spark: False: each machine runs Spark in itself, which takes less.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        options = stack.enter_context(minio_server(folder / "minio", BUCKET))
        say(f"object store    {options['AWS_ENDPOINT_URL']}, bucket {BUCKET}")
        database = stack.enter_context(postgres_server(folder / "postgres", password=secrets.token_hex(12)))
        places = {name: _create_database(database, name) for name in ("mlflow", "dagster")}
        say(f"PostgreSQL      {database.rpartition('@')[2].partition('/')[0]}, databases {', '.join(places)}")
        kafka = KafkaBroker(folder / "kafka")
        stack.callback(kafka.stop)
        kafka.start()
        say(f"Kafka           {kafka.brokers}")
        environment = _variables(project, paths, options, places, kafka.brokers)
        environment[FOLDER_VARIABLE] = str(folder)
        if has_spark:
            spark = SparkCluster(folder)
            stack.callback(spark.stop)
            os.environ["PYTHONPATH"] = environment["PYTHONPATH"]  # of executors
            spark.start(workers=_WORKERS, cores=4)
            environment["FORECACHE_SPARK_MASTER"] = spark.url
            say(f"Spark           {spark.url}, {_WORKERS} workers")
        machines = Machines(folder, {**_outside(), **environment})
        stack.callback(machines.stop_all)
        stack.enter_context(serve_control(folder, machines))
        ports = [free_port() for _ in READERS]
        for number, port in enumerate(ports[:readers], 1):
            # An empty reader that is ready would be asked for what it has not pulled yet.
            serve = f"forecache store pull; forecache store pull --every 10 & exec forecache serve --port {port}"
            machines.start(f"reader-{number}", ["bash", "-c", serve], is_replaced=True)
        address = f"http://127.0.0.1:{stack.enter_context(haproxy(folder / 'haproxy', ports))}"
        say(f"load balancer   {address}, before {readers} readers")
        webserver = ""
        if has_dagster:
            port = free_port()
            webserver = f"http://127.0.0.1:{port}"
            _prepare_dagster(machines)
            for name, words in {"webserver": ("webserver", str(port)), "daemon": ("daemon",)}.items():
                machines.start(name, [sys.executable, "-m", "_cluster.launcher", *words], is_replaced=True)
            say(f"Dagster         {webserver}, each run on a machine of its own")
        yield Cluster(folder, machines, environment, address, webserver, kafka, ports[:readers])


def enter_namespaces() -> None:
    """Go on as the first process of namespaces of its own: all that a cluster starts ends with this process.

    Returns in the new process; ends with a message if this user may have no namespaces.
    """
    if os.getpid() == 1:
        return
    own_user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = [NAMESPACES[0], *own_user, *NAMESPACES[1:], sys.executable, *sys.argv]
    os.execvp(command[0], command)


def _variables(
    project: str, paths: Sequence[str], options: Mapping[str, str], databases: Mapping[str, str], brokers: str
) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join([*paths, str(PROJECT_ROOT), str(PROJECT_ROOT / "benchmarks")]),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "FORECACHE_PROJECT": project,
        "FORECACHE_LANDING": f"s3://{BUCKET}/landing",
        "FORECACHE_LAKE": f"s3://{BUCKET}/lake",
        "FORECACHE_TRAINING_CHECKPOINTS": f"s3://{BUCKET}/checkpoints",
        "FORECACHE_STREAM_CHECKPOINTS": f"s3://{BUCKET}/stream-checkpoints",
        "FORECACHE_STORE_REMOTE": f"s3://{BUCKET}/store",
        "FORECACHE_MLFLOW_URI": databases["mlflow"],
        "FORECACHE_MLFLOW_ARTIFACTS": f"s3://{BUCKET}/mlflow",
        "FORECACHE_DAGSTER_URI": databases["dagster"],
        "FORECACHE_STORAGE_OPTIONS": json.dumps(dict(options)),
        "FORECACHE_KAFKA_BROKERS": brokers,
        "FORECACHE_SPARK_MASTER": "local[2]",
        "FORECACHE_SPARK_DRIVER_MEMORY": "1g",
        "FORECACHE_SPARK_CONF": json.dumps(_SPARK),
        "FORECACHE_SPARK_JVM": "short",
        "FORECACHE_TRAINING_WORKERS": "1",
        "FORECACHE_READER_ANONYMOUS": "true",
        "OMP_WAIT_POLICY": "PASSIVE",  # processes share few cores
    }


def _outside() -> dict[str, str]:
    """Variables of this process that a machine gets, too: nothing of another installation."""
    others = ("FORECACHE_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE")
    given = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    programs = str(Path(sys.executable).parent)
    return {**given, "PATH": os.pathsep.join([programs, os.environ["PATH"]])}


def _create_database(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{url.rpartition('/')[0]}/{name}"


def _prepare_dagster(machines: Machines) -> None:
    """Create Dagster's tables on a machine of their own: two processes that do so at once fail."""
    code = (
        "from forecache.base.settings import load_settings; from resources.instance import *; "
        "prepare_tables(ensure_instance(load_settings()))"
    )
    machine = machines.start("migration", [sys.executable, "-c", code])
    if machine.process.wait(timeout=300):
        raise RuntimeError(f"Dagster's tables were not created: {machine.log.read_text()[-2000:]}")
