"""Prints the project's part of the reader's status page as JSON; run by `forecache.plugins.status.sidecar`."""

import json
import os
import sys
from datetime import datetime, timezone

from forecache.base.errors import UnavailableError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import load_settings
from forecache.plugins.status.last_nights import last_nights
from forecache.stream.status.stream_status import describe_stream as described_stream
from forecache.stream.status.stream_status import read_stream_statuses

_NICE = 19


def main() -> None:
    os.nice(_NICE)  # answers of the reader go first
    settings = load_settings()
    now = datetime.now(timezone.utc)
    try:
        alerts = load_hook("alerts", "noted_alerts")(settings) if is_installed("alerts") else []
        unread = False
    except UnavailableError as error:
        print(error, file=sys.stderr)  # the reader's log; the page shows no paths
        alerts, unread = [], True
    part = {
        "nights": last_nights(settings, now),
        # The reader itself knows which of its versions are stale.
        "alerts": [alert.describe() for alert in alerts if alert.kind != "version_stale"],
        "alerts_unread": unread,
        "streams": [described_stream(each) for each in read_stream_statuses(settings)],
        "read_at": now.timestamp(),
    }
    json.dump(part, sys.stdout)


if __name__ == "__main__":
    main()
