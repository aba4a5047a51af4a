#!/usr/bin/env bash
# Take the pictures of docs/images anew from the state under FORECACHE_HOME (after `make demo`), with Dagster's real UI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
port=${1:-3977}
command -v chromium >/dev/null || { echo "no chromium: bash scripts/install_test_services.sh chromium" >&2; exit 1; }
log=$(mktemp)
# A group of its own, so that all of Dagster's processes can be stopped together.
setsid bash scripts/dev.sh --port "$port" >"$log" 2>&1 &
server=$!
trap 'kill -INT -- "-$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 240); do
    curl -sf "http://127.0.0.1:$port/server_info" >/dev/null && break
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.5
done
.venv/bin/python tests/support/ui_support.py "http://127.0.0.1:$port" docs/images
echo "docs/images: look at them before you commit"
