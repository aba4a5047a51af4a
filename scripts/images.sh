#!/usr/bin/env bash
# Build the images that deploy/helm installs: forecache and forecache-reader, and of a project's folder an image of its own.
# Usage: [REGISTRY=registry.example.com/ml] [TAG=0.1.0] [TORCH=cpu|cuda|none] [EXTRAS=all] [BASE=python:...]
#        [BUILD_OPTIONS="--network host ..."] bash scripts/images.sh [PROJECT_FOLDER PACKAGE]     (its image is REGISTRY/PACKAGE:TAG)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

step() { printf '[images] %s\n' "$*"; }
fail() { printf '[images] %s\n' "$@" >&2; exit 1; }

for engine in podman docker ""; do command -v "$engine" >/dev/null && break; done
[ -n "$engine" ] || fail "Neither podman nor docker is here." "Install one: apt-get install -y podman"
[ "$#" = 0 ] || [ "$#" = 2 ] || fail "Give a project's folder and the name of its package, or nothing."

tag="${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/pyproject.toml")}"
prefix="${REGISTRY:+${REGISTRY%/}/}"
version() { git -C "$1" describe --always --dirty 2>/dev/null || true; }

build() { # NAME FILE FOLDER ARGUMENT...
    local name="$prefix$1:$tag" file="$2" folder="$3" arguments=() argument
    shift 3
    for argument in "FORECACHE_CODE_VERSION=$(version "$folder")" "$@"; do arguments+=(--build-arg "$argument"); done
    step "$name"
    # shellcheck disable=SC2086 # several options
    "$engine" build -q ${BUILD_OPTIONS:-} -f "$here/deploy/$file" -t "$name" "${arguments[@]}" "$folder"
}

base=(${BASE:+"PYTHON=$BASE"})
build forecache-reader Containerfile.reader "$here" "${base[@]}"
build forecache Containerfile "$here" "EXTRAS=${EXTRAS:-all}" "TORCH=${TORCH:-cpu}" "${base[@]}"
if [ "$#" = 2 ]; then
    build "$2" Containerfile.project "$1" "FORECACHE=${prefix}forecache:$tag" "FORECACHE_PROJECT=$2"
fi
step "ready: push them to a registry that the cluster reads, or load them into its nodes"
