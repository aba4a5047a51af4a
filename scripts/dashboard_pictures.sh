#!/usr/bin/env bash
# Draw the panels of the Grafana dashboard anew in docs/images, as a real Prometheus answers their queries (eight minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v prometheus >/dev/null || { echo "no prometheus: bash scripts/install_test_services.sh promtool" >&2; exit 1; }
PYTHONPATH=.:tests/support .venv/bin/python tests/support/dashboard_sample.py docs/images "$@"
echo "docs/images: look at them before you commit"
