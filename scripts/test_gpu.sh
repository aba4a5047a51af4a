#!/usr/bin/env bash
# The checks of training on a GPU, alone: no set-up, no network, no Java. PYTHON needs torch, pytest and some wheels,
# see docs/how-to/models.md. Without a GPU they run on the CPU, to see that they run.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.12}
exec "$PYTHON" -m pytest -c tests/gpu/pytest.ini tests/gpu "$@"
