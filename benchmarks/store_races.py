"""`make prove-store`: 8 publishers and 4 rollbacks at once, 200 rounds, on a failing S3 server, with kills.

    python benchmarks/store_races.py                  writes benchmarks/results/store_races.json
    python benchmarks/store_races.py --rounds 3       fewer rounds; writes no result

It fails where a change that was acknowledged is lost, a number has two contents, a quarantined version is served, a
retained version cannot be read, or a replica is stuck.
"""

import argparse
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from _common.machine import circumstances

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "store_races.json"
ROUNDS = 200
sys.path.insert(0, str(ROOT / "tests" / "support"))
from store_races import prove  # noqa: E402 - found through the line above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=int(datetime.now(timezone.utc).timestamp()))
    arguments = parser.parse_args()
    began = circumstances()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="forecache-store-races-") as folder:
        figures = prove(
            Path(folder),
            rounds=arguments.rounds,
            seed=arguments.seed,
            limit_s=4 * 3600,
            say=lambda text: print(text, flush=True),
        )
    document = {"circumstances": began, "seed": arguments.seed, **figures}
    print(json.dumps(document, indent=2))
    if arguments.rounds == ROUNDS:
        RESULT.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
