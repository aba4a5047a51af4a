"""`make prove-cluster`: days of a small bank on machines that are killed at random, compared with one machine's days.

    python benchmarks/cluster_proof.py                 ten days, 100 kills; writes benchmarks/results/cluster.json
    python benchmarks/cluster_proof.py --short         two days, two pipelines, a stream, 10 kills; writes no result
    python benchmarks/cluster_proof.py --seed 7        as a run that failed
    python benchmarks/cluster_proof.py --minutes 60    begins no day after that, and says how many it has done

Two schedulers run each night of all pipelines at once, on machines that start with empty disks, and again until it has
succeeded. A stream scores the day's payments, two controllers roll releases of the model out by its request log, and
readers are asked five times a second. Machines of all kinds are killed at random. It fails if a row is lost, doubled or
different, if a request to the readers has no answer, or if a run does nothing for longer than the term of a lease and
ten seconds because of a machine that was killed. Models are trained on the first day, and on each second one after it.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from queue import SimpleQueue

from _common.machine import circumstances

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cluster.json"
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "tests" / "support")]
from _cluster.cluster import enter_namespaces, run_cluster  # noqa: E402 - found through the line above
from _cluster.comparison import compare  # noqa: E402
from _cluster.proof import MODEL, Chaos, Size, run_undisturbed  # noqa: E402

LONG = Size(10, ("user_risk", "user_share", "user_spend", "fraud"), kills=100, every_s=12.0, trained_every_days=2)
SHORT = Size(2, ("user_risk", "user_spend", "fraud"), kills=10, every_s=12.0, trained_every_days=1)
TINY = Size(1, ("user_risk",), kills=3, every_s=20.0, trained_every_days=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two days and ten kills")
    parser.add_argument("--tiny", action="store_true", help="one night of one pipeline and three kills, to try this")
    parser.add_argument("--kills", type=int, help="in all; default: 100, or 10")
    parser.add_argument("--every", type=float, help="mean seconds between two kills")
    parser.add_argument(
        "--started", type=float, default=10.0, help="seconds that a machine has before it can be killed"
    )
    parser.add_argument("--train-every", type=int, help="days between two trainings; default: 2, or 1")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no day after that")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--keep", type=Path, help="keep logs and data in this folder")
    arguments = parser.parse_args()
    size = TINY if arguments.tiny else SHORT if arguments.short else LONG
    size = replace(
        size,
        kills=arguments.kills or size.kills,
        every_s=arguments.every or size.every_s,
        trained_every_days=arguments.train_every or size.trained_every_days,
        started_s=arguments.started,
    )
    enter_namespaces()
    began = circumstances()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="forecache-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(text, flush=True)

    os.environ["BANK_TOPIC"] = "payments"
    differences: list[str] = []
    with (
        run_cluster(folder, project="_bank", readers=2, has_dagster=False, has_spark=False, say=say) as cluster,
        ThreadPoolExecutor() as pool,
    ):
        begun: SimpleQueue[date | None] = SimpleQueue()
        nights = iter(begun.get, None)
        alone = pool.submit(run_undisturbed, cluster, folder / "alone", size, nights, say=say)
        chaos = Chaos(cluster, size, folder, seed=arguments.seed, say=say)
        days = chaos.run(begun, until=time.monotonic() + 60 * arguments.minutes)
        served = {"spending", *size.names} - {MODEL}
        differences = compare(
            alone.result(),
            chaos.settings,
            served=served,
            asked=chaos.findings.requests.answered_ids,
            folder=folder / "replica",
        )
    findings = chaos.findings
    document = {"circumstances": began, "seed": arguments.seed, "days": len(days), **findings.describe()}
    document["differences"] = differences
    say(json.dumps(document, indent=2))
    for difference in differences:
        say(difference)
    is_proved = not (differences or findings.waits.stuck or findings.requests.unanswered)
    if not (arguments.short or arguments.tiny):
        RESULT.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    say("Proved: nothing lost, nothing doubled, nothing stuck." if is_proved else "Failed.")
    return int(not is_proved)


if __name__ == "__main__":
    sys.exit(main())
