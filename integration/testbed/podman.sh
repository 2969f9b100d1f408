#!/bin/bash
# podman.sh CMD…: podman in the sid root, on a "host" of its own, with what this kind of machine needs; RUNTIME=crun: not runc.
# Takes 0.2 s and its command; nothing to start or stop (`podman.sh rm -fa -t 0` ends what runs).
# Needs: root.sh run before.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

d=$TESTBED/podman
mkdir -p "$d"
make_netns tb-podman "$(host_number podman)"
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
# crun takes a tree that has `unified` for cgroup v2 throughout: hide that.
# shellcheck disable=SC2016
IN=root:podman NET=tb-podman exec "$HERE/enter.sh" env PODMAN_IGNORE_CGROUPSV1_WARNING=1 BUILDAH_ISOLATION=chroot \
	CONTAINERS_CONF="$d/containers.conf" CONTAINERS_STORAGE_CONF="$d/storage.conf" \
	sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"' podman "$@"
