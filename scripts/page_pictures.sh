#!/usr/bin/env bash
# Take the pictures of the pages on names in docs/images anew, from real runs of templates of `forecache init` (three minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v chromium >/dev/null || { echo "no chromium: bash scripts/install_test_services.sh chromium" >&2; exit 1; }
PYTHONPATH="$PWD:$PWD/tests/support" .venv/bin/python tests/support/page_sample.py docs/images
echo "docs/images: look at them before you commit"
