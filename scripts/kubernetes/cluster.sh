#!/usr/bin/env bash
# A real Kubernetes of one node on this machine, in namespaces of its own: control plane, kubelet and name service are one
# binary built from Go modules; containerd, runc and the network plug-ins are Debian's. Wants root, Go 1.26, cgroups v1.
# Usage: bash scripts/kubernetes/cluster.sh build | start | stop | status
#        bash scripts/kubernetes/cluster.sh kubectl ARGUMENTS... | run COMMAND... (on the node) | load ARCHIVE... (of images)
# What is built stays in FORECACHE_KUBERNETES_CACHE (~/.cache/forecache-kubernetes, 6 GB); `stop` removes the node and all in it.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FORECACHE_KUBERNETES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forecache-kubernetes}
version=v1.37.2
folder=$cache/node # of the running node: /run/node inside of it
address=10.200.0.10
keys=/run/node/keys
parts=(etcd kubectl kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns)

step() { printf '[kubernetes] %s %s\n' "$(date +%T)" "$*"; }

fail() {
    step "$*" >&2
    exit 1
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail "Namespaces of a node want root: run this as root."
    [ -d /sys/fs/cgroup/memory ] || fail "This machine has cgroups v2, for which the node is not made: install the chart on kind or k3s instead."
    command -v go >/dev/null || fail "There is no Go compiler: install Go 1.26 or newer."
}

install_packages() {
    local packages=(catatonit conntrack containerd containernetworking-plugins ethtool iproute2 iptables netavark nftables
        podman runc mmdebstrap)
    if dpkg-query -W -f '${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | grep -vq '^installed$' \
        || ! dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
        step "Installing ${packages[*]}"
        apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null
    fi
}

build_binary() { # Twenty minutes of a core the first time, a minute after a change.
    local stamp=$cache/bin/control_plane.source package=k8s.io/component-base/version flags
    if cat "$scripts"/control_plane/{main.go,go.mod} | cmp -s - "$stamp"; then return 0; fi
    [ "$(df -Pm "$cache" | awk 'END {print $4}')" -gt 8000 ] || fail "Building Kubernetes wants 8 GB on the disk of $cache."
    step "Building Kubernetes $version"
    mkdir -p "$cache"/{bin,source}
    cp "$scripts"/control_plane/{main.go,go.mod} "$cache/source"
    flags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=37 -X $package.gitTreeState=clean"
    flags+=" -X k8s.io/client-go/pkg/version.gitVersion=$version"
    (cd "$cache/source" && GOMODCACHE=$cache/go-modules GOCACHE=$cache/go-build GOFLAGS="-modcacherw -mod=mod" CGO_ENABLED=0 \
        nice -n 10 go build -trimpath -ldflags "$flags" -o "$cache/bin/control_plane" .)
    for part in "${parts[@]}"; do ln -sf control_plane "$cache/bin/$part"; done
    cat "$scripts"/control_plane/{main.go,go.mod} >"$stamp"
}

make_pause_image() { # What holds a pod's namespaces: catatonit, which waits and reaps.
    local archive=$cache/images/pause.tar
    [ -e "$archive" ] && return 0
    mkdir -p "$cache/images"
    tar -C /usr/bin -c catatonit | podman import -q --change 'ENTRYPOINT ["/catatonit", "-P"]' - localhost/pause:1 >/dev/null
    podman save -q -o "$archive" localhost/pause:1
}

build() {
    mkdir -p "$cache/bin"
    check_machine
    install_packages
    build_binary
    make_pause_image
}

is_running() { [ -e "$folder/pid" ] && kill -0 "$(cat "$folder/pid")" 2>/dev/null; }

make_groups() { # A group for the node below this shell's own in each hierarchy, so that its limits hold for the node too.
    local controller own group
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
        own=$(sed -n "s#^[0-9]*:\(name=\)\?$controller:##p" /proc/self/cgroup)
        group=/sys/fs/cgroup/$controller${own%/}/forecache-kubernetes
        mkdir -p "$group"
        echo "$group"
        if [ "$controller" = cpu ]; then echo 8192 >"$group/cpu.shares"; fi # else the node has the share of one process
        if [ "$controller" = cpuset ]; then
            cat "$group/../cpuset.cpus" >"$group/cpuset.cpus"
            cat "$group/../cpuset.mems" >"$group/cpuset.mems"
        fi
    done >"$folder/groups"
}

join_groups() {
    local group
    while read -r group; do echo "$BASHPID" >"$group/cgroup.procs"; done <"$folder/groups"
}

run_on_node() {
    is_running || fail "No cluster runs: start it with \`cluster.sh start\`."
    (
        join_groups
        exec nsenter --target "$(cat "$folder/pid")" --mount --net --pid --ipc --uts --cgroup --wd="$PWD" \
            env PATH="$cache/bin:$PATH" KUBECONFIG=$keys/admin.conf GOMAXPROCS=2 "$@"
    )
}

start_part() { # NAME COMMAND...
    run_on_node setsid "${@:2}" >"$folder/log/$1.txt" 2>&1 </dev/null &
}

wait_until() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "\`${*:2}\` did not succeed within $1 s: see $folder/log."
        sleep 0.5
    done
}

start() {
    build
    if is_running; then
        step "The cluster runs already."
        return 0
    fi
    rm -rf "$folder"
    mkdir -p "$folder"/{log,addresses,volume-plugins}
    cp -r "$scripts/conf" "$folder/conf"
    touch "$folder/conf/resolv.conf"
    bash "$scripts/certificates.sh" "$folder/keys" "$address" "$keys"
    make_groups
    (
        join_groups
        exec setsid unshare --mount --net --pid --ipc --uts --cgroup --fork bash "$scripts/node.sh" "$folder" "$address"
    ) >"$folder/log/node.txt" 2>&1 </dev/null &
    wait_until 60 test -e "$folder/is_made"
    pgrep -P $! >"$folder/pid"
    step "Node made"

    start_part etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    start_part containerd containerd --config /run/node/conf/containerd.toml
    start_part apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address "$address" \
        --service-cluster-ip-range 10.96.0.0/16 --allow-privileged --authorization-mode Node,RBAC \
        --enable-admission-plugins NodeRestriction --enable-aggregator-routing \
        --tls-cert-file $keys/apiserver.crt --tls-private-key-file $keys/apiserver.key --client-ca-file $keys/ca.crt \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file $keys/service-accounts.pub --service-account-signing-key-file $keys/service-accounts.key \
        --kubelet-client-certificate $keys/apiserver-kubelet.crt --kubelet-client-key $keys/apiserver-kubelet.key \
        --kubelet-certificate-authority $keys/ca.crt --kubelet-preferred-address-types InternalIP \
        --requestheader-client-ca-file $keys/aggregator-ca.crt --requestheader-allowed-names aggregator \
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- \
        --proxy-client-cert-file $keys/aggregator.crt --proxy-client-key-file $keys/aggregator.key
    wait_until 180 kubectl get --raw /readyz
    step "API server ready"

    start_part controllers kube-controller-manager --kubeconfig $keys/controllers.conf --leader-elect=false \
        --authentication-kubeconfig $keys/controllers.conf --authorization-kubeconfig $keys/controllers.conf \
        --use-service-account-credentials --root-ca-file $keys/ca.crt \
        --service-account-private-key-file $keys/service-accounts.key \
        --horizontal-pod-autoscaler-sync-period 5s --horizontal-pod-autoscaler-initial-readiness-delay 5s
    start_part scheduler kube-scheduler --kubeconfig $keys/scheduler.conf --leader-elect=false \
        --authentication-kubeconfig $keys/scheduler.conf --authorization-kubeconfig $keys/scheduler.conf
    start_part kubelet kubelet --config /run/node/conf/kubelet.yaml --kubeconfig $keys/kubelet.conf \
        --hostname-override node --node-ip "$address"
    kubectl apply -f "$folder/conf/system.yaml" >/dev/null
    start_part proxy kube-proxy --config /run/node/conf/proxy.yaml
    start_part dns coredns -conf /run/node/conf/Corefile
    start_part metrics python3 "$scripts/metrics.py" "$address"
    run_on_node ctr --namespace k8s.io images import "$cache/images/pause.tar" >/dev/null
    wait_until 120 kubectl get node node
    kubectl wait --for condition=Ready node/node --timeout 180s >/dev/null
    wait_until 60 run_on_node curl -sf "http://$address:8181/ready"
    step "Node ready: Kubernetes $version"
}

stop() { # The end of a pid namespace's first process ends all others, their mounts and their network.
    local group
    if is_running; then
        kill -9 "$(cat "$folder/pid")"
        while is_running; do sleep 0.1; done
    fi
    [ -e "$folder/groups" ] || return 0
    while read -r group; do
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$group" ] || break
            sleep 0.5
        done
        [ ! -d "$group" ] || step "The group $group has processes still."
    done <"$folder/groups"
    rm -rf "$folder"
    step "Cluster stopped"
}

kubectl() { run_on_node kubectl "$@"; }

load() {
    local archive
    for archive; do run_on_node ctr --namespace k8s.io images import "$archive" >/dev/null; done
}

status() {
    is_running || fail "No cluster runs."
    kubectl get nodes,pods --all-namespaces
}

action=${1:-}
case $action in
    build | start | stop | status | kubectl | load) "$@" ;;
    run) run_on_node "${@:2}" ;;
    *) fail "Usage: cluster.sh build | start | stop | status | kubectl ... | run ... | load ..." ;;
esac
