#!/usr/bin/env bash
# Write the state of a small project as this version leaves it, for tests/integration/test_earlier_homes.py: once a release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin
homes=$PWD/tests/support/homes
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
version=$("$bin/python" -c 'import forecache; print(forecache.__version__)')
"$bin/forecache" init "$place/shop" --template batch
cd "$place/shop"
"$bin/forecache" demo
"$bin/forecache" query "select customer, return_probability from predictions_returns order by customer" --json >answers.json
tar -C "$place" --exclude=.forecache/dagster --exclude=.forecache/reports -cJf "$homes/$version.tar.xz" shop
