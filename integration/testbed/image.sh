#!/bin/bash
# image.sh SUITE|busybox TAG [TARGET…]: imports a base image.
# image.sh copy TAG TARGET…: copies an image of dockerd `one`, or of dockerd FROM.
#
# A suite (bullseye, bookworm, trixie, sid: minbase) takes 15-25 s the first time and 3 s later; busybox (static, no libc)
# takes 1 s. TARGET is an engine that is up: the NAME of a dockerd, `podman` (or --podman), `podman-rootless`,
# `containerd` or `k8s`. Without one it is every running dockerd.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

[ $# -ge 2 ] || die "usage: $0 SUITE|busybox|copy TAG [TARGET…]"
what=$1 tag=$2
shift 2
if [ $# = 0 ]; then
	for p in "$RUN"/docker-*.pid; do
		n=$(basename "$p" .pid)
		! alive "$n" || set -- "$@" "${n#docker-}"
	done
fi
[ $# -gt 0 ] || die "no dockerd is up"
docker() { "$HERE/enter.sh" docker -H "unix://$TESTBED/docker/$1/docker.sock" "${@:2}"; }

# image_id TARGET: prints the ID of the image there; nothing for engines that cannot tell.
image_id() {
	case $1 in
	podman) "$HERE/podman.sh" image inspect -f '{{.Id}}' "$tag" ;;
	podman-rootless) ROOTLESS=1 "$HERE/podman.sh" image inspect -f '{{.Id}}' "$tag" ;;
	containerd | k8s) ;;
	*) docker "$1" image inspect -f '{{.Id}}' "$tag" ;;
	esac 2>/dev/null | sed 's/^sha256://'
}

tar=$TESTBED/images/$what.tar
mkdir -p "$TESTBED/images"
if [ "$what" = copy ]; then
	known=$(image_id "${FROM:-one}") missing=()
	[ -n "$known" ] || die "no image $tag"
	for t; do [ "$(image_id "$t")" = "$known" ] || missing+=("$t"); done
	[ ${#missing[@]} -gt 0 ] || exit 0
	set -- "${missing[@]}"
	tar=$(mktemp "$TESTBED/images/copy.XXXXXX")
	trap 'rm -f "$tar"' EXIT
	docker "${FROM:-one}" save "$tag" >"$tar"
elif [ ! -e "$tar" ]; then
	tmp=$TESTBED/images/$what.tree
	rm -rf "$tmp"
	if [ "$what" = busybox ]; then
		mkdir -p "$tmp"/{bin,dev,etc,proc,root,run,sys,tmp,var/tmp}
		chmod 1777 "$tmp/tmp" "$tmp/var/tmp"
		cp "$TESTBED/root/usr/bin/busybox" "$tmp/bin/"
		for a in $("$tmp/bin/busybox" --list); do [ -e "$tmp/bin/$a" ] || ln -s busybox "$tmp/bin/$a"; done
		printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$tmp/etc/passwd"
		printf 'root:x:0:\nnogroup:x:65534:\n' >"$tmp/etc/group"
	else
		need debootstrap debian-archive-keyring
		echo 'Acquire::Check-Valid-Until "false";' >"$RUN/apt.conf"
		APT_CONFIG=$RUN/apt.conf debootstrap --variant=minbase "$what" "$tmp" "$(mirror)" >"$LOG/image-$what.log" 2>&1 ||
			die "debootstrap failed, see $LOG/image-$what.log"
		rm -rf "$tmp"/var/cache/apt/archives/*.deb "$tmp"/var/lib/apt/lists/*_* "${tmp:?}"/dev/*
	fi
	tar -C "$tmp" -cf "$tar.part" .
	mv "$tar.part" "$tar"
	rm -rf "$tmp"
fi

for t; do
	case $t:$what in
	podman:copy | --podman:copy) "$HERE/podman.sh" load -q -i "$tar" ;;
	podman-rootless:copy) chmod a+r "$tar" && ROOTLESS=1 "$HERE/podman.sh" load -q -i "$tar" ;;
	containerd:copy) $("$HERE/containerd.sh" up) images import "$tar" ;;
	podman:* | --podman:*) "$HERE/podman.sh" import -q "$tar" "$tag" ;;
	k8s:copy) "$HERE/k8s.sh" load "$tar" ;;
	podman-rootless:* | containerd:* | k8s:*) die "import into a dockerd first, then: $0 copy $tag $t" ;;
	*:copy) docker "$t" load -q <"$tar" ;;
	*) docker "$t" import --change 'CMD ["/bin/sh"]' - "$tag" <"$tar" ;;
	esac
done
