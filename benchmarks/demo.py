"""`make bench-demo`: the main job from landing files to a served answer in a clean home, its time, memory and models.

python benchmarks/demo.py              run it twice, about four minutes on two cores
python benchmarks/demo.py --report     measure nothing, print what results/demo.json holds
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _common import command, results
from _common.memory import proportional_bytes, watching
from _common.rows import Row, Value, markdown, number

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {"demo": "`forecache demo` in an empty home, and once more"}
_SAMPLE_S = 0.25


def main() -> int:
    arguments = command.options(__doc__, "demo", SECTIONS).parse_args()
    path = results.folder_of(arguments.size, ROOT / ".forecache" / "bench-demo", arguments.results) / "demo.json"
    failed = []
    if not arguments.report:
        failed = results.measure_sections(["demo"], {"demo": measure}, path=path, size=arguments.size)
    print(results.text(results.load(path), SECTIONS, rows_of))
    return command.exit_code(failed)


def measure() -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="forecache-bench-demo-"))
    try:
        first, again = run_demo(home), run_demo(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"first": first, "again": again}


def run_demo(home: Path) -> dict[str, Any]:
    """Run the demo: its wall time with the start of Python, stages, models' figures, memory of all its processes.

    Raises:
        RuntimeError: The demo failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    environment |= {"FORECACHE_HOME": str(home)}
    command = [str(ROOT / ".venv" / "bin" / "forecache"), "demo", "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True)
    peak = 0

    def look() -> None:
        nonlocal peak
        top = psutil.Process(process.pid)
        peak = max(peak, sum(map(proportional_bytes, [top, *top.children(recursive=True)])))

    with watching(look, every_s=_SAMPLE_S):
        output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"forecache demo ended with {process.returncode}: {output[-1000:]}")
    said = json.loads(output[output.index("{") :])
    return {
        "seconds": seconds,
        "peak_pss_bytes": peak,
        "stages": len(said["stages"]),
        "skipped": sum(bool(stage.get("skipped")) for stage in said["stages"]),
        "answers": len(said["answers"]),
        "models": said["models"],
    }


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    first, again = section["first"], section["again"]
    rows = [
        Row(f"the first time, {first['stages']} stages", Value.of([first["seconds"]]), "s"),
        Row(
            f"once more: {again['skipped']} of {again['stages']} stages are current", Value.of([again["seconds"]]), "s"
        ),
        Row("memory of all processes at one time (PSS)", Value.of([first["peak_pss_bytes"] / 1e9]), "GB"),
    ]
    for model in first["models"]:
        for metric, value in model["metrics"].items():
            ours, baseline = Value.of([value]), model["baseline"].get(metric)
            theirs = None if baseline is None else Value.of([baseline])
            peer = "" if baseline is None else f"baseline alone (`{model['baseline_feature']}`)"
            rows.append(Row(f"{model['pipeline']}, test split: `{metric}`", ours, "", peer, theirs))
    return rows


def sentence(sections: dict[str, Any]) -> str:
    """The README's sentence about the main job."""
    if "demo" not in sections:
        return "The main job, both pipelines: not measured (`make bench-demo`)."
    section = sections["demo"]
    first, again, moment = section["first"], section["again"], section["machine"]
    return (
        f"The main job, both pipelines, on {moment['cores']} cores ({moment['processor']}): "
        f"{_duration(first['seconds'])} the first time, {_duration(again['seconds'])} when run again with "
        f"nothing to do, {first['peak_pss_bytes'] / 1e9:.1f} GB of memory at its peak (`make bench-demo`)."
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def models_table(sections: dict[str, Any]) -> str:
    """The table of the models on the test split, and what the gate said."""
    if "demo" not in sections:
        return "Not measured (`make bench-demo`)."
    models = sections["demo"]["first"]["models"]
    lines = [
        [model["pipeline"], f"`{metric}`", number(value) if value >= 1 else f"{value:.3f}", _baseline(model, metric)]
        for model in models
        for metric, value in model["metrics"].items()
    ]
    said = [f"The gate on {model['pipeline']}: {'; '.join(model['reasons'])}." for model in models]
    return markdown(["Pipeline", "Metric", "Model", "Baseline alone"], lines) + "\n\n" + " ".join(said)


def _baseline(model: dict[str, Any], metric: str) -> str:
    value = model["baseline"].get(metric)
    return "" if value is None else number(value) if value >= 1 else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
