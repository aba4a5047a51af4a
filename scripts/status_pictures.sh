#!/usr/bin/env bash
# Take the pictures of the status page in docs/images anew, from a reader with sample data under traffic (three minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v chromium >/dev/null || { echo "no chromium: bash scripts/install_test_services.sh chromium" >&2; exit 1; }
PYTHONPATH=.:tests/support .venv/bin/python tests/support/status_sample.py docs/images "$@"
echo "docs/images: look at them before you commit"
