"""A night of the windowed project in a process of its own, where neither Java nor pyspark nor torch can be found.

`python night_without_spark.py HOME`: prints what ran, which engine it was, and a served row, as JSON.
"""

import json
import os
import resource
import sys
import time
from datetime import date
from pathlib import Path

from forecache.base.settings import Settings, load_settings
from forecache.declare import AS_OF
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_records
from forecache.runs import run_night
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key

STAGES = {
    "windows": ("features", "customer"),
    "sql": ("features", "habits"),
    "join": ("features", "spend"),
    "score": ("score", "spend"),
}
HIDDEN = ("pyspark", "delta", "torch")
# Not None in `sys.modules`, which scipy takes for the library.
_FINDER = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def hide_libraries(folder: Path) -> dict[str, str]:
    """The environment of a process, and of those that it starts, in which the libraries and Java do not exist."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"HIDDEN = {HIDDEN}\n{_FINDER}")
    kept = {name: value for name, value in os.environ.items() if not name.endswith("JAVA_HOME")}
    paths = [str(folder), str(Path(__file__).parent), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PATH": str(Path(sys.executable).parent)}


def engine_of(settings: Settings, stage: str, subject: str) -> str:
    records = last_records(settings, stage, subject)
    return str(records[max(night for night in records if night)].details["engine"])


def main() -> None:
    settings = load_settings(home=Path(sys.argv[1]), project="windowed_project")
    said: list[str] = []
    results = run_night(settings, progress=lambda message, share=None: said.append(message))
    with open_store(settings, "spend").snapshot() as snapshot:
        answers = VersionAnswers(snapshot)
        answers.refresh(time.time())
        of_night = [(AS_OF, "=", date.fromisoformat(snapshot.manifest.as_of))]
        predictions = open_table(settings, "predictions_spend").to_pyarrow_table(filters=of_night)
        stored = {row["customer"]: row["next_spend"] for row in predictions.to_pylist()}
        served = {key: json.loads(answers.one(parse_key(snapshot.manifest.key, str(key)))) for key in stored}
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {
        "stages": [(result.stage, result.skipped) for result in results],
        "engines": [message for message in said if "engine" in message],
        "stored": stored,
        "served": {key: answer["value"]["next_spend"] for key, answer in served.items()},
        "recorded": {stage: engine_of(settings, *named) for stage, named in STAGES.items()},
        "cpu_s": sum(each.ru_utime + each.ru_stime for each in usage),
        "peak_mb": max(each.ru_maxrss for each in usage) / 1024,
        "loaded": sorted(name for name in HIDDEN if sys.modules.get(name) is not None),
    }
    print(json.dumps(told, default=str))


if __name__ == "__main__":
    main()
