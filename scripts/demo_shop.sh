#!/usr/bin/env bash
# Run the example of examples/shop: a grocery's year of purchases, from landing files to a household's recommendations.
# The purchases are in a package with a licence of its own: it is installed beside the environment, not into it.
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
export PYTHONPATH="$PWD/$DATA:$PWD/examples/shop${PYTHONPATH:+:$PYTHONPATH}"
export FORECACHE_PROJECT=shop FORECACHE_HOME="${FORECACHE_HOME:-$PWD/.forecache-shop}"
.venv/bin/forecache demo "$@"
case " $* " in *" --json "*) exit ;; esac # nothing but JSON is printed then

# The leaflets of three households as files, of which mail programs show each; nothing is sent.
.venv/bin/forecache mail leaflet --dry-run --limit 3 --out "$FORECACHE_HOME/leaflets"
printf '\nOne of them:\n\n'
cat "$(find "$FORECACHE_HOME/leaflets" -name '*.eml' | sort | head -n 1)"
