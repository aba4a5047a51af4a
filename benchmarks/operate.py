"""`make bench-operate`: what the request log costs, parity of a million answers, and how soon a rollout stops.

python benchmarks/operate.py                      all sections
python benchmarks/operate.py --size tiny          try the benchmark itself; its figures mean nothing
python benchmarks/operate.py --only parity        some sections; the others keep their results and circumstances
python benchmarks/operate.py --report             measure nothing, print what results/operate.json holds
"""

import sys
from functools import partial
from pathlib import Path

from _common import command, results
from _operate import report
from _operate.sizes import SIZES

WORK = command.ROOT / ".forecache" / "bench-operate"


def main() -> int:
    parser = command.options(__doc__, "operate", report.SECTIONS)
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-operate)")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.size]
    work = (arguments.work or WORK).resolve() / sizes.name
    path, failed = results.folder_of(sizes.name, work, arguments.results) / "operate.json", []
    if not arguments.report:
        command.measure_this_tree()
        from _operate import keeping_up, log_cost, replays, rollouts

        work.mkdir(parents=True, exist_ok=True)
        measures = {
            "log": partial(log_cost.measure, work, sizes),
            "keeps-up": partial(keeping_up.measure, work, sizes),
            "parity": partial(replays.measure, work, sizes),
            "rollout": partial(rollouts.measure, sizes),
        }
        chosen = command.chosen(arguments, report.SECTIONS)
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    found = results.load(path)
    print(results.text(found, report.SECTIONS, report.rows_of))
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
