"""A training that was done elsewhere from equal inputs: its files become this run's, in an MLflow run of its own.

The result is written last, so that a killed copy is made again.
"""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

from forecache.base.files import replace_file
from forecache.declare import Trainable
from forecache.models.tracking.runs import RUN_FILE, open_training_run
from forecache.models.training.process import RunLock, read_events
from forecache.models.training.run_files import RESULT_FILES, RunFiles
from forecache.models.training.spec import METRICS_FILE, RESULT_FILE, SPEC_FILE, load_spec


def take_training(
    files: RunFiles, there: Path, pipeline: Trainable, lock: RunLock, night: date, *, run_id: str
) -> None:
    """Copy the files of an ended training in the folder `there` into this run's, and log its losses.

    LeaseLostError if another machine has taken this run over meanwhile.
    """
    folder = files.folder
    folder.mkdir(parents=True, exist_ok=True)
    replace(files.spec, vocabularies=load_spec(there / SPEC_FILE).vocabularies).save()
    for name in RESULT_FILES:
        if name not in (RUN_FILE, SPEC_FILE, RESULT_FILE) and (there / name).is_file():
            _copy(there / name, folder / name)
    with open_training_run(files.settings, pipeline, folder, night=night.isoformat(), run_id=run_id) as streamed:
        for event in read_events(there / METRICS_FILE):
            streamed.on_event(event)
        streamed.finish(json.loads((there / RESULT_FILE).read_text())["history"])
        lock.lease.confirm()
        _copy(there / RESULT_FILE, folder / RESULT_FILE)
        files.share_result()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(target) as temporary:
        shutil.copyfile(source, temporary)
