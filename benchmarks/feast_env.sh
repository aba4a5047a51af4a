#!/usr/bin/env bash
# Install Feast, the benchmark's peer, into an environment of its own, at the versions of feast-requirements.txt.
# Runs again at no cost. Feast does not resolve beside this project's own dependencies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV=.tools/uv/bin/uv
STAMP=.tools/feast/benchmark.stamp
wanted="$(sha256sum <benchmarks/feast-requirements.txt)"

if [ -x .tools/feast/bin/feast ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
# The certificates of the machine, not uv's own: a company's proxy is trusted there.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi
printf '[bench] Installing Feast into .tools/feast\n'
[ -x .tools/feast/bin/python ] || "$UV" venv -q --python .venv/bin/python .tools/feast
"$UV" pip install -q --python .tools/feast/bin/python -r benchmarks/feast-requirements.txt
.tools/feast/bin/python -m compileall -q .tools/feast/lib >/dev/null || true
printf '%s' "$wanted" >"$STAMP"
