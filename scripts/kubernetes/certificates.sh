#!/usr/bin/env bash
# Make the keys, certificates and kubeconfigs of a one-node cluster, valid for 30 days.
# Usage: bash certificates.sh FOLDER NODE_ADDRESS PATH_IN_NODE
set -euo pipefail
mkdir -p "$1"
cd "$1"
address=$2 path_in_node=$3

make_authority() { # NAME SUBJECT
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$2" -keyout "$1.key" -out "$1.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
}

make_certificate() { # NAME AUTHORITY SUBJECT [NAMES]
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$3" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'extendedKeyUsage=clientAuth,serverAuth\nkeyUsage=digitalSignature,keyEncipherment\n%s\n' \
        "${4:+subjectAltName=$4}" >"$1.extensions"
    openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 30 -extfile "$1.extensions" \
        -out "$1.crt" 2>/dev/null
}

make_kubeconfig() { # NAME: of the user whose certificate has that name
    cat >"$1.conf" <<CONFIG
apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $path_in_node/ca.crt}}]
users: [{name: $1, user: {client-certificate: $path_in_node/$1.crt, client-key: $path_in_node/$1.key}}]
contexts: [{name: node, context: {cluster: node, user: $1}}]
CONFIG
}

make_authority ca kubernetes
make_authority aggregator-ca aggregator
make_certificate apiserver ca /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
make_certificate apiserver-kubelet ca /O=system:masters/CN=kube-apiserver-kubelet-client
make_certificate aggregator aggregator-ca /CN=aggregator
make_certificate metrics ca /O=system:masters/CN=metrics DNS:metrics.kube-system.svc
make_certificate admin ca /O=system:masters/CN=admin
make_certificate controllers ca /CN=system:kube-controller-manager
make_certificate scheduler ca /CN=system:kube-scheduler
make_certificate proxy ca /CN=system:kube-proxy
make_certificate dns ca /CN=system:dns
make_certificate kubelet ca /O=system:nodes/CN=system:node:node "DNS:node,IP:$address"
for user in admin controllers scheduler proxy dns kubelet; do make_kubeconfig "$user"; done
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
