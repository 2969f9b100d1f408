#!/bin/bash
# podman.sh CMD…: runs podman in the sid root, on a "host" of its own, with the settings that this machine needs.
# RUNTIME=crun: with crun instead of runc. ROOTLESS=1: as an ordinary user (uid 1000), on another "host".
#
# Takes 0.2 s besides the command. There is no daemon; `podman.sh rm -fa -t 0` ends all containers. Run root.sh before.
# The shell in the tree expands the variables in single quotes:
# shellcheck disable=SC2016
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

name=podman${ROOTLESS:+-rootless}
d=$TESTBED/$name
mkdir -p "$d"
make_netns "tb-$name" "$(host_number "$name")"
# This machine has no CAP_SYS_RESOURCE, so limits cannot be raised; and cgroup v1, so systemd cannot be the manager.
cat >"$d/containers.conf" <<END
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=30000:30000"]
log_driver = "k8s-file"
[engine]
runtime = "${RUNTIME:-runc}"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "/run/testbed-podman"\n' "$d/storage" >"$d/storage.conf"
export IN=root:$name NET=tb-$name
environment=(PODMAN_IGNORE_CGROUPSV1_WARNING=1 BUILDAH_ISOLATION=chroot CONTAINERS_CONF="$d/containers.conf" CONTAINERS_STORAGE_CONF="$d/storage.conf")
# crun takes a tree with a folder `unified` for pure cgroup v2, so this hides the folder.
if [ -z "${ROOTLESS:-}" ]; then
	exec "$HERE/enter.sh" env "${environment[@]}" sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"' podman "$@"
fi
# Makes a user with subordinate IDs, the folders that logind would make, and devices with udev's modes.
exec "$HERE/enter.sh" env "${environment[@]}" sh -euc '
	umount /sys/fs/cgroup/unified 2>/dev/null || true
	id -u podman >/dev/null 2>&1 || useradd -u 1000 -m podman
	mkdir -p /run/user "$0"
	if ! [ -d /run/user/1000 ]; then
		mount -t tmpfs -o mode=755 tmpfs /dev/net
		mknod -m 666 /dev/net/tun c 10 200
		install -d -o 1000 -g 1000 /run/testbed-podman
		chown 1000:1000 "$0"
		install -d -m 700 -o 1000 -g 1000 /run/user/1000
	fi
	exec setpriv --reuid 1000 --regid 1000 --init-groups --inh-caps=-all env HOME="$0" USER=podman XDG_RUNTIME_DIR=/run/user/1000 podman "$@"
' "$d" "$@"
