#!/usr/bin/env bash
# Make the node of a cluster out of the namespaces that this runs in, and stay as their first process. The machine's own
# network, mounts, sysctls and packet filter stay as they are; nothing leads out of the node's network.
# Usage: unshare --mount --net --pid --ipc --uts --cgroup --fork bash node.sh FOLDER ADDRESS
set -euo pipefail
folder=$1 address=$2
mount --make-rprivate /
hostname node
umount --recursive --lazy /sys # a JVM reads its limits where the first mount of a controller is listed
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd

mount -t tmpfs -o mode=755 run /run
mkdir /run/node /run/lock
mount --bind "$folder" /run/node
for state in lib/containerd lib/kubelet lib/etcd lib/cni log/pods log/containers; do
    mkdir -p "$folder/state/$state" "/var/$state"
    mount --bind "$folder/state/$state" "/var/$state"
done
printf '127.0.0.1 localhost\n%s node\n' "$address" >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

# The kubelet would set these for the whole machine: it is shown files that have its values.
show_sysctl() { # NAME VALUE
    mkdir -p "$folder/sysctl"
    echo "$2" >"$folder/sysctl/${1//\//.}"
    mount --bind "$folder/sysctl/${1//\//.}" "/proc/sys/$1"
}
show_sysctl vm/overcommit_memory 1
show_sysctl vm/panic_on_oom 0
show_sysctl kernel/panic 10
show_sysctl kernel/panic_on_oops 1
show_sysctl kernel/keys/root_maxkeys 1000000
show_sysctl kernel/keys/root_maxbytes 25000000
mount --make-rshared /

# The address is at one end of a pair of interfaces whose other end lies in the same namespace.
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add "$address/24" dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default via "${address%.*}.1" dev eth0
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse # the load's steps open more connections in a minute than there are ports
touch "$folder/is_made"
exec catatonit -P
