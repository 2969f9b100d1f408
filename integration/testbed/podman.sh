#!/bin/bash
# podman.sh CMD…: podman in the sid root, on a "host" of its own, with what this kind of machine needs; RUNTIME=crun: not runc.
# ROOTLESS=1: as an ordinary user (uid 1000), on another "host".
# Takes 0.2 s and its command; nothing to start or stop (`podman.sh rm -fa -t 0` ends what runs).
# Needs: root.sh run before.
# What is set up in the tree is for the shell there.
# shellcheck disable=SC2016
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

name=podman${ROOTLESS:+-rootless}
d=$TESTBED/$name
mkdir -p "$d"
make_netns "tb-$name" "$(host_number "$name")"
# No CAP_SYS_RESOURCE here: limits may not be raised. cgroup v1: no systemd manager.
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
# crun takes a tree that has `unified` for cgroup v2 throughout: hide that.
if [ -z "${ROOTLESS:-}" ]; then
	exec "$HERE/enter.sh" env "${environment[@]}" sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"' podman "$@"
fi
# A user with subordinate ids, what logind would make for it, and devices with the modes that udev gives them.
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
