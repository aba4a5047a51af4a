#!/usr/bin/env bash
# Take the pictures of a rollout, parity, cost and a stream in Dagster's real UI anew, from sample data (one minute).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v chromium >/dev/null || { echo "no chromium: bash scripts/install_test_services.sh chromium" >&2; exit 1; }
PYTHONPATH=.:tests/support .venv/bin/python tests/support/dagster_sample.py docs/images
echo "docs/images: look at them before you commit"
