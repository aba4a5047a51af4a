#!/usr/bin/env bash
# Install Feast into an environment of its own (.tools/feast): it does not resolve beside what Forecache needs.
# The reader's Feast test and the store's benchmark run it from there. Runs again at no cost.
# Usage: bash scripts/feast_env.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FEAST_VERSION=0.67.0
UV=.tools/uv/bin/uv
PYTHON=.tools/feast/bin/python

[ -x "$UV" ] || { echo "[feast] uv is missing; run \`make setup\` first." >&2; exit 1; }
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi

installed() { "$PYTHON" -c 'from importlib.metadata import version; print(version("feast"))' 2>/dev/null; }

if [ "$(installed)" = "$FEAST_VERSION" ]; then
    echo "[feast] feast $FEAST_VERSION is there."
    exit 0
fi
[ -x "$PYTHON" ] || UV_PYTHON_DOWNLOADS=never "$UV" venv -q --python "$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')/bin/python3" .tools/feast
"$UV" pip install -q --compile-bytecode --python "$PYTHON" "feast[redis]==$FEAST_VERSION"
echo "[feast] feast $(installed) into .tools/feast"
