#!/bin/bash
# root.sh: makes $TESTBED/root, a Debian sid tree with docker, compose, buildx, podman, runc, crun, skopeo, containerd.
# root.sh clean: ends everything in the testbed and removes $TESTBED.
#
# Takes about 60 s and 1.2 GB of disk the first time, and 0 s later. Needs root, apt with a Debian mirror that carries sid.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

clean() {
	local p
	"$HERE/k8s.sh" down
	for p in "$TESTBED"/k8s-data-*; do
		[ ! -e "$p" ] || CLUSTER=${p##*/k8s-data-} "$HERE/k8s.sh" down
	done
	"$HERE/s3.sh" down
	for p in "$RUN"/docker-*.pid; do
		[ ! -e "$p" ] || { p=$(basename "$p" .pid) && "$HERE/docker.sh" down "${p#docker-}"; }
	done
	for p in "$RUN"/containerd-*.pid; do
		[ ! -e "$p" ] || { p=$(basename "$p" .pid) && "$HERE/containerd.sh" down "${p#containerd-}"; }
	done
	[ ! -d "$TESTBED/podman" ] || "$HERE/podman.sh" rm -fa -t 0 >/dev/null
	[ ! -d "$TESTBED/podman-rootless" ] || ROOTLESS=1 "$HERE/podman.sh" rm -fa -t 0 >/dev/null
	# Network namespaces of engines without a daemon, and of tests.
	for p in $(ip netns list | awk '/^tb-/ { print $1 }'); do drop_netns "$p"; done
	for p in "$RUN"/ns/*; do umount "$p" 2>/dev/null || true; done
	umount "$RUN/ns" 2>/dev/null || true
	find /sys/fs/cgroup/*/docker /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {} + 2>/dev/null || true
	! grep " $TESTBED/" /proc/self/mounts || die "these are still mounted"
	rm -rf --one-file-system "$TESTBED"
}
if [ "${1:-}" = clean ]; then clean && exit; fi
make_root root sid docker.io docker-cli docker-compose docker-buildx containerd runc crun podman buildah skopeo netavark \
	aardvark-dns fuse-overlayfs catatonit slirp4netns iptables nftables iproute2 kmod procps uidmap passt jq busybox-static
"$HERE/enter.sh" dpkg-query -W docker.io docker-compose docker-buildx containerd runc crun podman skopeo >&2
