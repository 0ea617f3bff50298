#!/bin/sh
# Runs as the first process of a new mount and PID namespace: makes $ENGINE_ROOT the root and becomes dockerd.
# A plain chroot is not enough: runc calls pivot_root itself and fails in one.
#   ENGINE_ROOT   the Debian folder          ENGINE_DATA  becomes /var/lib/docker
#   ENGINE_STATE  becomes /run/engine        ENGINE_BINFMT  rule that registers an emulator, or empty
#   ENGINE_CONTAINERD  false: the old image store, without containerd
#   "$@"          further arguments of dockerd
set -eu
root=$ENGINE_ROOT
mount --bind "$root" "$root"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=700 tmpfs "$root/etc/docker"
mount --bind "$ENGINE_DATA" "$root/var/lib/docker"
mkdir "$root/run/engine"
mount --bind "$ENGINE_STATE" "$root/run/engine"
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || { [ -e "$root$file" ] || : >"$root$file"; mount --bind "$file" "$root$file"; }
done
# The kernel reads the rule's interpreter now (flag F), so every container finds it; from Linux 6.7 on the rule lives as
# long as this mount does.
binfmt="$root/proc/sys/fs/binfmt_misc"
if [ -n "$ENGINE_BINFMT" ] && mount -t binfmt_misc binfmt_misc "$binfmt"; then
    name=${ENGINE_BINFMT#:}
    name=${name%%:*}
    [ -e "$binfmt/$name" ] || printf '%s' "$ENGINE_BINFMT" >"$binfmt/register" || echo "no emulation" >&2
fi
cd "$root"
pivot_root . .old
umount -l .old
chroot . ip link set lo up
exec chroot . /usr/bin/tini-static -s -- /usr/sbin/dockerd \
    -H unix:///run/engine/docker.sock --pidfile /run/dockerd.pid --exec-root /run/docker \
    --feature "containerd-snapshotter=${ENGINE_CONTAINERD:-true}" --shutdown-timeout 5 "$@"
