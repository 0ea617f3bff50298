#!/bin/sh
# Takes back what dockerd leaves in the host's network: the bridge, its firewall rules the forwarding switch, the
# emulator's rule (which before Linux 6.7 outlives its mount).
# Runs chrooted in the engine's Debian folder. Arguments: FORWARD's earlier policy, earlier net.ipv4.ip_forward, the rule's name.
set -eu
ip link delete docker0 2>/dev/null || :
for kind in iptables ip6tables; do
    $kind-save | grep -v -e DOCKER -e docker0 | sed "s/^:FORWARD [A-Z]*/:FORWARD $1/" | $kind-restore || :
done
echo "$2" >/proc/sys/net/ipv4/ip_forward
if [ -n "$3" ] && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; then
    [ ! -e "/proc/sys/fs/binfmt_misc/$3" ] || echo -1 >"/proc/sys/fs/binfmt_misc/$3"
fi
