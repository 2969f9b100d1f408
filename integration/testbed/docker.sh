#!/bin/bash
# docker.sh up|down|wipe [NAME]: starts or stops a dockerd in the sid root. Another NAME is another "host" (own data, own
# network). TREE=NAME: in that tree, with its userland and its own docker.
#
# up takes 2-4 s and prints the docker command to use. down stops dockerd and keeps its images; wipe removes its data too.
# Run root.sh before.
# $docker is a command with arguments, so it is not quoted:
# shellcheck disable=SC2086
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

name=${2:-one} d=$TESTBED/docker/${2:-one} ns=tb-${2:-one} tree=${TREE:-root}
docker="env IN=$tree $HERE/enter.sh docker -H unix://$d/docker.sock"

up() {
	if ! alive "docker-$name"; then
		mkdir -p "$d"
		rm -f "$d/docker.pid" "$d/docker.sock"
		local n
		n=$(host_number "$name")
		make_netns "$ns" "$n"
		echo '{"features":{"containerd-snapshotter":false}}' >"$d/daemon.json"
		# shellcheck disable=SC2016
		IN=$tree:$name NET=$ns start "docker-$name" "$HERE/enter.sh" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$name" dockerd --config-file "$d/daemon.json" -H "unix://$d/docker.sock" \
			--data-root "$d/data" --exec-root "$d/exec" --pidfile "$d/docker.pid" --bip "10.88.$n.1/24" \
			--default-ulimit nofile=4096:4096 --exec-opt native.cgroupdriver=cgroupfs --storage-driver overlay2
	fi
	wait_for 30 $docker version || die "dockerd did not come up, see $LOG/docker-$name.log"
	echo "$docker"
}
down() {
	! alive "docker-$name" || $docker ps -q | xargs -r $docker kill >/dev/null 2>&1 || true
	stop "docker-$name"
	umount "$RUN/ns/$tree:$name" 2>/dev/null || true
	drop_netns "$ns"
}
case ${1:-} in
up) up ;;
down) down ;;
wipe) down && "$HERE/enter.sh" rm -rf "$d" ;;
*) die "usage: $0 up|down|wipe [NAME]" ;;
esac
