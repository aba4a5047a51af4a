"""`make bench-operate`: what the request log costs, parity of a million answers, and how soon a rollout stops.

python benchmarks/operate.py                      all sections, about half an hour on two cores
python benchmarks/operate.py --size hour          shorter runs: about a quarter of an hour
python benchmarks/operate.py --size tiny          try the benchmark itself; its figures mean nothing
python benchmarks/operate.py --only parity        some sections; the others keep their results and circumstances
python benchmarks/operate.py --report             measure nothing, print what results/operate.json holds
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from _common import results
from _operate import report
from _operate.sizes import SIZES

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".forecache" / "bench-operate"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list(report.SECTIONS)
    parser.add_argument("--only", choices=sections, action="append", help="measure this section; may be repeated")
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-operate)")
    parser.add_argument("--results", type=Path, help="folder of operate.json (default: results/)")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.size]
    work = (arguments.work or WORK).resolve() / sizes.name
    path, failed = results.folder_of(sizes.name, work, arguments.results) / "operate.json", []
    if not arguments.report:
        for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
            del os.environ[name]  # the settings of whoever runs this are not what is measured
        os.environ["PYTHONPATH"] = str(ROOT)
        sys.path.insert(0, str(ROOT))
        from _operate import keeping_up, log_cost, replays, rollouts

        work.mkdir(parents=True, exist_ok=True)
        measures = {
            "log": partial(log_cost.measure, work, sizes),
            "keeps-up": partial(keeping_up.measure, work, sizes),
            "parity": partial(replays.measure, work, sizes),
            "rollout": partial(rollouts.measure, sizes),
        }
        chosen = [name for name in sections if name in (arguments.only or sections)]
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    found = results.load(path)
    print(results.text(found, report.SECTIONS, report.rows_of))
    for sentence in failed:
        print(f"FAILED: {sentence}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
