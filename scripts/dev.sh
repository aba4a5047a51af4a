#!/usr/bin/env bash
# Open Dagster's UI on the state that `make demo` and `forecache run` write; Ctrl-C stops the whole group.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/forecache dev "$@"
