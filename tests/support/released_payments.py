"""Releases of the model `payments`: its declaration with changes, and what a release answers."""

from dataclasses import replace
from typing import Any

import numpy as np
from asked_project.pipelines.payments import payments

from forecache.base.settings import Settings
from forecache.declare import Realtime
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release


def changed(**changes: Any) -> Realtime:
    return replace(payments, **changes)


def scores(settings: Settings, number: int) -> np.ndarray:
    loaded = load_release(open_releases(settings, "payments"), number)
    columns = loaded.builder.build_columns({"household_id": 1, "amount": 30.0})
    rows = loaded.builder.build_rows(
        columns, {"household": np.array([[2, 1]], np.float32)}, {"household": np.ones(1, bool)}
    )
    found = loaded.score(rows)
    loaded.close()
    return found
