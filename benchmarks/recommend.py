"""`make bench-recommend`: how good and how fast recommenders are, beside their peers.

python benchmarks/recommend.py                     all sections, about ten minutes on two cores
python benchmarks/recommend.py --size tiny         try the benchmark itself; its figures mean nothing
python benchmarks/recommend.py --only movielens    some sections; the others keep their results and circumstances
python benchmarks/recommend.py --report            measure nothing, print what results/recommend.json holds
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import command, results
from _recommend import report

ROOT = Path(__file__).resolve().parent.parent


def movielens(size: str) -> dict[str, Any]:
    """Recommenders on MovieLens 100k, in a process of its own on one core."""
    subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "movielens"], check=True)
    seeds = {"tiny": 1, "full": 3}[size]
    return _job("_recommend.movielens", str(seeds))


def ranking(size: str) -> dict[str, Any]:
    """The 50 best of 20,000 items for every user, on two cores: into Delta, and beside Spark and implicit."""
    many, few = {"tiny": (20_000, 2_000), "full": (1_000_000, 10_000)}[size]
    return {part: _job("_recommend.ranking", part, str(users)) for part, users in (("delta", many), ("peers", few))}


def reading(size: str) -> dict[str, Any]:
    """Lists over HTTP beside a text of as many bytes."""
    from _store import lists
    from _store.sizes import SIZES

    subprocess.run(["bash", str(ROOT / "scripts" / "install_test_services.sh"), "wrk"], check=True)
    return lists.measure(ROOT / ".forecache" / "bench-store" / size, SIZES[size], 1)


def _job(module: str, *arguments: str) -> dict[str, Any]:
    """What a module's process prints as its last line, JSON; BLAS and OpenMP have one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {"movielens": movielens, "ranking": ranking, "reading": reading}


def main() -> int:
    parser = command.options(__doc__, "recommend", report.SECTIONS)
    arguments = parser.parse_args()
    folder = results.folder_of(arguments.size, ROOT / ".forecache" / "bench-recommend", arguments.results)
    path, failed = folder / "recommend.json", []
    if not arguments.report:
        chosen = command.chosen(arguments, report.SECTIONS)
        measures = {name: partial(MEASURES[name], arguments.size) for name in chosen}
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    found = results.load(path)
    if not found:
        print(f"{path} holds no section yet.", file=sys.stderr)
        return 1
    print(results.text(found, report.SECTIONS, report.rows_of))
    print(f"\nMedians, in brackets the smallest and the largest sample. Details: {path}")
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
