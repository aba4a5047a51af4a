"""Plan a run, run it, and print what each stage was planned to take and took, as JSON.

`python plan_and_run.py JOB DATE PIPELINE...`, with Forecache's settings in the environment; `land` as JOB lands the
project's data and ingests it.
"""

import json
import sys
import time
from collections import defaultdict
from datetime import date

from forecache.base.settings import Settings, load_settings
from forecache.lake.ledger import ledger_records, records_after
from forecache.runs import RunRequest, run_in_process


def main() -> None:
    settings = load_settings()
    job, day, *names = sys.argv[1:]
    if job == "land":
        from forecache.plugins.new_project.demo_data import land_demo_data

        land_demo_data(settings)
        run_in_process(settings, RunRequest(names, job="ingest"))
        return
    night = date.fromisoformat(day)
    print(json.dumps(plan_and_run(settings, RunRequest(names, nights=(night, night), job=job))))


def plan_and_run(settings: Settings, request: RunRequest) -> dict[str, object]:
    from forecache.plugins.plan.make_plan import plan_run

    started, cpu_started = time.perf_counter(), time.process_time()
    plan = plan_run(settings, request)
    plan_s = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu_started}
    last = max((row.commit_version or 0 for row in ledger_records(settings)), default=-1)
    run_in_process(settings, request)
    took_s: dict[str, float] = defaultdict(float)
    for row in records_after(settings, last):
        took_s[f"{row.stage} {row.subject}"] += (row.details.get("cost") or {}).get("core_s", 0.0)
    planned = {
        f"{each.stage} {each.subject}": None if each.estimate.is_guess else each.estimate.core_s for each in plan.stages
    }
    return {"plan_s": plan_s, "planned_s": planned, "took_s": took_s}


if __name__ == "__main__":
    main()
