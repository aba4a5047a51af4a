#!/usr/bin/env bash
# Run COMMAND on a machine of its own: the first process of new namespaces of processes, mounts, shared memory and host
# name, with an empty disk at DISK that is gone when the machine is. `kill -9` of it ends all that runs on it.
# Usage: unshare --fork --kill-child --pid --mount --uts --ipc --mount-proc bash machine.sh NAME DISK COMMAND...
set -eu
name=$1 disk=$2
shift 2
hostname "$name"
mount -t tmpfs -o size=4g tmpfs "$disk"
mount -t tmpfs tmpfs /dev/shm
mkdir "$disk/home" "$disk/tmp"
printf '127.0.0.1 localhost %s\n' "$name" >"$disk/hosts"
mount --bind "$disk/hosts" /etc/hosts
# The first process of a namespace gets no signal that it has no handler for, and has to wait for orphans: this one does.
# A signal may come before the command has started: it is passed on then.
command="" told=""
pass_on() { told=$1; [ -z "$command" ] || kill -"$told" "$command" 2>/dev/null || true; }
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
"$@" <&0 &
command=$!
[ -z "$told" ] || pass_on "$told"
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do
    status=0
    wait "$command" || status=$?
done
exit "$status"
