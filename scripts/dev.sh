#!/usr/bin/env bash
# Open Dagster's UI on the state that `make demo` and `forecache run` write; Ctrl-C stops the whole group.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# A shell that runs this in the background ignores INT and QUIT, and Dagster's children would then never stop.
exec env --default-signal=INT,QUIT .venv/bin/forecache dev "$@"
