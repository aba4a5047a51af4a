#!/usr/bin/env bash
# Build the chart's images and one of examples/fraud, with the stream of user_pace.py, from Debian and the package registries
# alone: Python's own image is replaced by one of Debian's Python, so no registry of images is asked. Torch is left out.
# Usage: bash scripts/kubernetes/images.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${FORECACHE_KUBERNETES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forecache-kubernetes}
python=localhost/python:3.11
options="--network host --cgroup-manager cgroupfs"

if ! podman image exists "$python"; then
    mkdir -p "$cache/images"
    if [ ! -e "$cache/images/python.tar" ]; then
        # shellcheck disable=SC2016 # mmdebstrap expands $1
        mmdebstrap --quiet --variant minbase --include ca-certificates,python-is-python3,python3,python3-pip,python3-venv \
            --customize-hook 'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' bookworm "$cache/images/python.part.tar"
        mv "$cache/images/python.part.tar" "$cache/images/python.tar"
    fi
    podman import -q "$cache/images/python.tar" localhost/debian-python:3.11 >/dev/null
    # A company's proxy, which this machine trusts, is trusted in builds too.
    # shellcheck disable=SC2086 # several options
    podman build $options --quiet --tag "$python" --file - /usr/local/share/ca-certificates >/dev/null <<'CONTAINERFILE'
FROM localhost/debian-python:3.11
COPY . /usr/local/share/ca-certificates/
RUN update-ca-certificates
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
CONTAINERFILE
fi

REGISTRY=localhost BASE=$python BUILD_OPTIONS="$options" EXTRAS=reader,realtime,s3,spark,stream,dagster,cluster TORCH=none \
    bash scripts/images.sh examples/fraud fraud
# shellcheck disable=SC2086 # several options
podman build $options --quiet --tag localhost/fraud:0.1.0 --file - scripts/kubernetes >/dev/null <<'CONTAINERFILE'
FROM localhost/fraud:0.1.0
COPY user_pace.py /opt/project/fraud/pipelines/
CONTAINERFILE
podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
