"""`make bench-realtime`: answers of real-time models beside other servers, under an open loop and under faults.

python benchmarks/realtime.py                      all sections, about an hour on two cores
python benchmarks/realtime.py --size hour          shorter runs: about half an hour
python benchmarks/realtime.py --size tiny          try the benchmark itself; its figures mean nothing
python benchmarks/realtime.py --only network       some sections; the others keep their results and circumstances
python benchmarks/realtime.py --prepare            measure nothing: install the peers and load what they serve
python benchmarks/realtime.py --report             measure nothing, print what results/realtime.json holds
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from _common import results
from _realtime import report
from _realtime.sizes import SIZES

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".forecache" / "bench-realtime"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list(report.SECTIONS)
    parser.add_argument("--only", choices=sections, action="append", help="measure this section; may be repeated")
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-realtime)")
    parser.add_argument("--results", type=Path, help="folder of realtime.json (default: results/)")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--prepare", action="store_true", help="measure nothing: install and load the peers")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.size]
    work = (arguments.work or WORK).resolve() / sizes.name
    path, failed = results.folder_of(sizes.name, work, arguments.results) / "realtime.json", []
    if not arguments.report:
        for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
            del os.environ[name]  # the settings of whoever runs this are not what is measured
        os.environ["PYTHONPATH"] = str(ROOT)
        sys.path.insert(0, str(ROOT))
        from _realtime import balancers, case, faults, lookup, overload, plain, prepare, swaps, throughput

        work.mkdir(parents=True, exist_ok=True)
        prepare.prepare(work, sizes)
        if arguments.prepare:
            return 0
        measures = {
            case.NETWORK: partial(throughput.measure, work, sizes, case.NETWORK),
            case.TREES: partial(throughput.measure, work, sizes, case.TREES),
            "overload": partial(overload.measure, work, sizes),
            "faults": partial(faults.measure, work, sizes),
            "swap": partial(swaps.measure, work, sizes),
            "balancers": partial(balancers.measure, work, sizes),
            "lookup": partial(lookup.measure, work, sizes),
            "plain": partial(plain.measure, work, sizes),
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
