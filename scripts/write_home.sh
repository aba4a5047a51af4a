#!/usr/bin/env bash
# Write the state of a small project as this version leaves it, for tests/integration/test_earlier_homes.py: once a release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin
homes=$PWD/tests/support/homes
mkdir -p "$homes"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
version=$("$bin/python" -c 'import forecache; print(forecache.__version__)')
"$bin/forecache" init "$place/shop" --template batch
cd "$place/shop"
last=$(date -u -d '3 days ago' +%F)
"$bin/python" -m shop.landing
rm .forecache/landing/orders/"$(date -u -d '2 days ago' +%F).csv" .forecache/landing/orders/"$(date -u -d yesterday +%F).csv"
"$bin/forecache" run --job full --date "$last"
"$bin/forecache" query "select customer, return_probability from predictions_returns order by customer" --json >answers.json
tar -C "$place" --exclude=.forecache/dagster --exclude=.forecache/reports -cJf "$homes/$version.tar.xz" shop
