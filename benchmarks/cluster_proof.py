"""`make prove-cluster`: days of a small bank on machines that are killed at random, compared with one machine's days.

    python benchmarks/cluster_proof.py                 ten days, 100 kills; writes benchmarks/results/cluster.json
    python benchmarks/cluster_proof.py --short         two days, two pipelines, a stream, 10 kills; writes no result
    python benchmarks/cluster_proof.py --seed 7        as a run that failed

Two schedulers, Dagster and a command that is started again, run each night of all pipelines at once on machines that
start with empty disks, while a stream scores the day's payments and readers are asked. Machines of all kinds, those of
Dagster's webserver and daemon too, are killed at random. It fails if a row is lost, doubled or different, if a request
to the readers has no answer, or if a machine waits for one that was killed for longer than the term of a lease and ten
seconds. Models are trained on the first day, and on each fifth after it.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from _common.machine import circumstances

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cluster.json"
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "tests" / "support")]
from _cluster.cluster import enter_namespaces, run_cluster  # noqa: E402 - found through the line above
from _cluster.comparison import compare  # noqa: E402
from _cluster.proof import Chaos, Size, run_undisturbed  # noqa: E402

LONG = Size(10, ("user_risk", "user_share", "user_spend", "fraud"), kills=100, every_s=12.0)
SHORT = Size(2, ("user_risk", "user_spend", "fraud"), kills=10, every_s=12.0)
TINY = Size(1, ("user_risk",), kills=3, every_s=20.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two days and ten kills")
    parser.add_argument("--tiny", action="store_true", help="one night of one pipeline and three kills, to try this")
    parser.add_argument("--without-dagster", action="store_true", help="two commands as schedulers")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--keep", type=Path, help="keep logs and data in this folder")
    arguments = parser.parse_args()
    size = TINY if arguments.tiny else SHORT if arguments.short else LONG
    enter_namespaces()
    began = circumstances()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="forecache-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(text, flush=True)

    os.environ["BANK_TOPIC"] = "payments"
    parts = {"has_dagster": not arguments.without_dagster, "has_spark": False}
    with run_cluster(folder, project="_bank", say=say, **parts) as cluster:
        alone = run_undisturbed(cluster, folder / "alone", size, say=say)
        chaos = Chaos(cluster, size, folder, seed=arguments.seed, say=say)
        findings = chaos.run()
        served = {"spending", *size.names} - {"fraud"}
        models = [name for name in size.names if name == "fraud"]
        differences = compare(alone, chaos.settings, served=served, models=models, folder=folder / "replica")
    document = {"circumstances": began, "seed": arguments.seed, **findings.describe(), "differences": differences}
    say(json.dumps(document, indent=2))
    for difference in differences:
        say(difference)
    failed = bool(differences or findings.stuck or findings.unanswered or findings.kills.total() < size.kills)
    if size is LONG and not failed:
        RESULT.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    say("Failed." if failed else "Proved: nothing lost, nothing doubled, nothing stuck.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
