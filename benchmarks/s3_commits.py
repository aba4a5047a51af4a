"""`make prove-s3`: 1,000 commits to one table on a failing S3 server, by Spark and by delta-rs, with writers killed.

    python benchmarks/s3_commits.py                  writes benchmarks/results/s3_commits.json
    python benchmarks/s3_commits.py --smoke          a few commits, to see that it works; writes no result

It fails where a commit is lost, is there twice, or differs from what its writer was told.
"""

import argparse
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from _common.machine import circumstances

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "s3_commits.json"
sys.path.insert(0, str(ROOT / "tests" / "support"))
from s3_proof import prove  # noqa: E402 - found through the line above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few commits")
    parser.add_argument("--seed", type=int, default=int(datetime.now(timezone.utc).timestamp()))
    arguments = parser.parse_args()
    spark, delta = (4, 8) if arguments.smoke else (100, 400)
    kills = {"spark": 1, "delta-rs": 2} if arguments.smoke else {"spark": 6, "delta-rs": 30}
    began = circumstances()
    with tempfile.TemporaryDirectory(prefix="forecache-s3-commits-") as folder:
        figures = prove(
            Path(folder),
            spark_commits=spark,
            delta_commits=delta,
            kills=kills,
            seed=arguments.seed,
            limit_s=7200,
            say=lambda text: print(text, flush=True),
        )
    document = {
        "circumstances": began,
        "seed": arguments.seed,
        "commits_by_writer": {"spark": [spark, spark], "delta-rs": [delta, delta]},
        **figures,
    }
    print(json.dumps(document, indent=2))
    if not arguments.smoke:
        RESULT.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
