#!/bin/bash
# enter.sh CMD…: runs a command within the sid root, in one mount namespace that all calls share.
# IN=TREE[:NAME]: in another tree, and in the mount namespace NAME of it. NET=NAMESPACE: in that network namespace.
#
# Takes 30 ms. Only the mounts are the tree's. PIDs, devices, cgroups, $TESTBED and the network are the caller's, and so
# is the working folder if it is below $TESTBED. Run root.sh before.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

in=${IN:-root}
root=$TESTBED/${in%%:*} ns=$RUN/ns/$in
[ -d "$root" ] || die "no $root: run root.sh first"
exec 9>"$RUN/enter.lock"
flock 9
mountpoint -q "$RUN/ns" || { mkdir -p "$RUN/ns" && mount --bind "$RUN/ns" "$RUN/ns" && mount --make-private "$RUN/ns"; }
if ! grep -q " $ns nsfs " /proc/self/mounts; then
	touch "$ns"
	# A mount namespace made with NET shows that network in its /sys.
	# shellcheck disable=SC2016
	${NET:+nsenter --net=/run/netns/$NET} unshare --mount="$ns" --propagation private bash -euc '
		root=$1 testbed=$2
		mount --bind "$root" "$root"
		for d in dev proc; do mount --rbind /$d "$root/$d"; done
		mount -t sysfs sysfs "$root/sys"
		mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
		mount -t tmpfs -o mode=755 tmpfs "$root/run"
		mount -t tmpfs tmpfs "$root/tmp"
		mkdir -p "$root$testbed" "$root/mnt/old"
		mount --bind "$testbed" "$root$testbed"
		cd "$root"
		pivot_root . mnt/old
		umount -l /mnt/old
		# Container engines expect a root with shared propagation.
		mount --make-rshared /
	' enter "$root" "$TESTBED"
fi
exec 9>&-
[ $# -gt 0 ] || set -- bash
there=/
[ "${PWD#"$TESTBED"/}" = "$PWD" ] || there=$PWD
exec nsenter --mount="$ns" --wdns="$there" ${NET:+--net=/run/netns/$NET} env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
	TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive TESTBED="$TESTBED" "$@"
