"""`make cluster`: on one machine what a company has, and machines with empty disks that share nothing else.

    python benchmarks/cluster.py start --project fraud --path examples/fraud    until Ctrl-C
    python benchmarks/cluster.py run -- forecache run user_risk                 on a new machine; prints its output
    python benchmarks/cluster.py run --keep --name stream -- forecache stream cards    replaced when it ends
    python benchmarks/cluster.py list
    python benchmarks/cluster.py kill reader-1                                  kill -9 of all that runs on it
    python benchmarks/cluster.py settings                                       variables of the machines, for a shell

The servers (MinIO, PostgreSQL, Kafka, Spark with two workers, HAProxy) and the machines are processes in namespaces of
their own, so that all end with the cluster, however that ends. A machine has its own processes, host name and disk, in
memory; its disk is empty at each start. Readers, Dagster's webserver and its daemon are replaced when they end. Dagster
starts each run on a new machine. The cluster begins empty.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for _path in (ROOT, ROOT / "benchmarks", ROOT / "tests" / "support"):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))
from _cluster.control import CONTROL_FILE, Control  # noqa: E402 - found through the lines above

FOLDER = ROOT / ".forecache-cluster"
VARIABLES = "machine.env"
_LOOK_S = 0.5


def start(folder: Path, project: str, paths: Sequence[str], readers: int, *, has_spark: bool) -> int:
    """Run a cluster until it is interrupted."""
    from _cluster.cluster import enter_namespaces, run_cluster
    from _cluster.machines import write_json

    enter_namespaces()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    shutil.rmtree(folder, ignore_errors=True)
    say = lambda text: print(text, flush=True)  # noqa: E731
    own = [str(Path(path).resolve()) for path in paths]
    sys.path[:0] = own
    try:
        with run_cluster(folder, project=project, paths=own, readers=readers, has_spark=has_spark, say=say) as cluster:
            write_json(folder / VARIABLES, dict(cluster.environment))
            here = f"{Path(sys.executable).with_name('python')} benchmarks/cluster.py"
            say(f"\nA command on a new machine:  {here} run -- forecache run\nMachines:                    {here} list")
            say(f"Kill one, as a loss of power: {here} kill reader-1\nLogs: {folder}/logs. Ctrl-C stops everything.\n")
            while True:
                for machine in cluster.machines.replace_ended():
                    say(f"{machine.name} ended and was replaced.")
                time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        say("Stopped.")
    return 0


def run(folder: Path, name: str, command: Sequence[str], *, keep: bool) -> int:
    """Run a command on a new machine; returns its exit code, at once for a machine that is kept."""
    control = _connect(folder)
    machine = control.start(name or f"machine-{uuid.uuid4().hex[:6]}", command, is_replaced=keep)
    if keep:
        print(f"{machine['name']} runs; its log is {machine['log']}.")
        return 0
    with open(machine["log"], "rb") as log:
        while True:
            now = control.find(machine["name"])
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
            if now is None or now["exit_code"] is not None:
                return int(now["exit_code"]) if now else 1
            time.sleep(_LOOK_S)


def show(folder: Path) -> int:
    """Print the machines."""
    for machine in _connect(folder).list_machines():
        state = "runs" if machine["exit_code"] is None else f"ended with {machine['exit_code']}"
        times = f", replaced {machine['number']} times" if machine["number"] else ""
        command = " ".join(" ".join(machine["command"]).split())[:80]
        print(f"{machine['name']:20} {state:16} started {machine['seconds']:.0f} s ago{times}: {command}")
    return 0


def _connect(folder: Path) -> Control:
    try:
        return Control(folder)
    except FileNotFoundError:
        sys.exit(f"No cluster runs in {folder}: there is no {CONTROL_FILE}. Start one by `make cluster`.")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("CLUSTER_FOLDER", FOLDER)))
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("start")
    starting.add_argument("--project", default="fraud")
    starting.add_argument("--path", action="append", dest="paths", help="a folder to import the project from")
    starting.add_argument("--readers", type=int, default=3, choices=range(1, 4))
    starting.add_argument("--local-spark", action="store_true", help="Spark in each machine instead of a Spark cluster")
    running = actions.add_parser("run")
    running.add_argument("--name", default="")
    running.add_argument("--keep", action="store_true", help="start it again on a new machine whenever it ends")
    running.add_argument("command", nargs="+")
    actions.add_parser("list")
    actions.add_parser("kill").add_argument("name")
    actions.add_parser("settings")
    given: Any = parser.parse_args()
    folder = given.folder.resolve()
    if given.action == "start":
        paths = given.paths or [str(ROOT / "examples" / given.project)]
        return start(folder, given.project, paths, given.readers, has_spark=not given.local_spark)
    if given.action == "run":
        return run(folder, given.name, given.command, keep=given.keep)
    if given.action == "list":
        return show(folder)
    if given.action == "kill":
        print("Killed." if _connect(folder).kill(given.name) else "It had ended.")
    else:
        _connect(folder)
        for variable, value in json.loads((folder / VARIABLES).read_text()).items():
            print(f"export {variable}='{value}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
