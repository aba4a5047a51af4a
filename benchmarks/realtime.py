"""`make bench-realtime`: answers of real-time models beside other servers, under an open loop and under faults.

python benchmarks/realtime.py                      all sections
python benchmarks/realtime.py --size tiny          try the benchmark itself; its figures mean nothing
python benchmarks/realtime.py --only network       some sections; the others keep their results and circumstances
python benchmarks/realtime.py --prepare            measure nothing: install the peers and load what they serve
python benchmarks/realtime.py --report             measure nothing, print what results/realtime.json holds
"""

import sys
from functools import partial
from pathlib import Path

from _common import command, results
from _realtime import report
from _realtime.sizes import SIZES

WORK = command.ROOT / ".forecache" / "bench-realtime"


def main() -> int:
    parser = command.options(__doc__, "realtime", report.SECTIONS)
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-realtime)")
    parser.add_argument("--prepare", action="store_true", help="measure nothing: install and load the peers")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.size]
    work = (arguments.work or WORK).resolve() / sizes.name
    path, failed = results.folder_of(sizes.name, work, arguments.results) / "realtime.json", []
    if not arguments.report:
        command.measure_this_tree()
        from _realtime import (
            balancers,
            bento,
            cached,
            case,
            faults,
            lookup,
            overload,
            plain,
            prepare,
            swaps,
            throughput,
        )

        work.mkdir(parents=True, exist_ok=True)
        chosen = command.chosen(arguments, report.SECTIONS)
        if not set(chosen) <= set(report.WITHOUT_PEERS):
            prepare.prepare(work, sizes)
        elif report.BENTO in chosen:
            prepare.prepare_bento(work, sizes)
        if arguments.prepare:
            return 0
        measures = {
            case.NETWORK: partial(throughput.measure, work, sizes, case.NETWORK),
            case.TREES: partial(throughput.measure, work, sizes, case.TREES),
            report.BENTO: partial(bento.measure, work, sizes),
            report.CACHED: partial(cached.measure, work, sizes),
            "overload": partial(overload.measure, work, sizes),
            "faults": partial(faults.measure, work, sizes),
            "swap": partial(swaps.measure, work, sizes),
            "balancers": partial(balancers.measure, work, sizes),
            "lookup": partial(lookup.measure, work, sizes),
            "plain": partial(plain.measure, work, sizes),
        }
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    found = results.load(path)
    print(results.text(found, report.SECTIONS, report.rows_of))
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
