"""Prints what the reader's status page shows of the project, as JSON; run by `forecache.operations.status.beside`."""

import json
import os
import sys
from datetime import datetime, timezone

from forecache.operations.status.alerts import described, noted_alerts
from forecache.operations.status.nights import last_nights
from forecache.settings import load_settings

_NICE = 19


def main() -> None:
    os.nice(_NICE)  # answers of the reader go first
    settings = load_settings()
    now = datetime.now(timezone.utc)
    part = {
        "nights": last_nights(settings, now),
        # The reader itself knows which of its versions are stale.
        "alerts": [described(alert) for alert in noted_alerts(settings) if alert.kind != "version_stale"],
        "read_at": now.timestamp(),
    }
    json.dump(part, sys.stdout)


if __name__ == "__main__":
    main()
