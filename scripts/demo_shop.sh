#!/usr/bin/env bash
# Run the example of examples/shop: a grocery's year of purchases, from landing files to a household's recommendations.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install_shop_data.sh
export PYTHONPATH="$PWD/.tools/shop:$PWD/examples/shop${PYTHONPATH:+:$PYTHONPATH}"
export FORECACHE_PROJECT=shop FORECACHE_HOME="${FORECACHE_HOME:-$PWD/.forecache-shop}"
.venv/bin/forecache demo "$@"
case " $* " in *" --json "*) exit ;; esac # nothing but JSON is printed then

# The leaflets of three households as files, of which mail programs show each; nothing is sent.
.venv/bin/forecache mail leaflet --dry-run --limit 3 --out "$FORECACHE_HOME/leaflets"
printf '\nOne of them:\n\n'
cat "$(find "$FORECACHE_HOME/leaflets" -name '*.eml' | sort | head -n 1)"
