#!/bin/bash
# containerd.sh up|down|wipe [NAME]: starts or stops a containerd without CRI, in the sid root. Another NAME is another
# "host". TREE=NAME: in that tree, with its userland and its own containerd.
#
# up takes 1 s and prints the ctr command to use. down stops containerd and keeps its images; wipe removes its data too.
# Containers run with --net-host have the address of the "host". Run root.sh before.
# $ctr is a command with arguments, so it is not quoted:
# shellcheck disable=SC2086
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

name=${2:-containerd} d=$TESTBED/containerd/${2:-containerd} ns=tb-${2:-containerd} tree=${TREE:-root}
export IN=$tree:$name NET=$ns
ctr="env IN=$IN NET=$NET $HERE/enter.sh ctr -a $d/containerd.sock"

up() {
	if ! alive "containerd-$name"; then
		make_netns "$ns" "$(host_number "$name")"
		mkdir -p "$d"
		rm -f "$d"/containerd.sock*
		cat >"$d/config.toml" <<-END
			version = 2
			root = "$d/data"
			state = "/run/testbed-containerd"
			disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
			[grpc]
			  address = "$d/containerd.sock"
		END
		start "containerd-$name" "$HERE/enter.sh" containerd --config "$d/config.toml"
	fi
	wait_for 20 $ctr version || die "no containerd, see $LOG/containerd-$name.log"
	echo "$ctr"
}
down() {
	local id
	if alive "containerd-$name"; then
		for id in $($ctr containers ls -q); do
			$ctr tasks rm -f "$id" >/dev/null 2>&1 || true
			$ctr containers rm "$id" >/dev/null 2>&1 || true
		done
	fi
	stop "containerd-$name"
	umount "$RUN/ns/$tree:$name" 2>/dev/null || true
	drop_netns "$ns"
}
case ${1:-} in
up) up ;;
down) down ;;
wipe) down && rm -rf --one-file-system "$d" ;;
*) die "usage: $0 up|down|wipe [NAME]" ;;
esac
