"""Constants."""

import os
from pathlib import Path

DAYS = 30
TOP = 200
RATES = {"eur": 1.0, "usd": 0.9}
CITY = os.environ.get("STALENESS_CITY", "Basel")
FOLDER = os.path.dirname(__file__)
TABLE = Path(FOLDER) / "rates.csv"
_calls = 0


def counted() -> int:
    global _calls
    _calls += 1
    return _calls
