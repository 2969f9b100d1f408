#!/bin/bash
# userland.sh bookworm|musl: makes a tree with another userland than the sid tree's, and an engine of its own, for
# `TREE=bookworm docker.sh up NAME` and `TREE=musl containerd.sh up NAME`.
#
# bookworm: Debian 12 with its docker.io 20.10, containerd 1.6, runc 1.1. 1 min, 0.6 GB.
# musl: busybox, containerd 1.6 and runc 1.1 without glibc, built from Debian's source with musl. Some minutes, 2 GB with
# the tree that builds them.
# Needs root, apt with a Debian mirror that carries bookworm.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

# musl: builds the tree. busybox and runc are linked with musl's libc.so; containerd is in Go and needs no libc.
musl() {
	[ ! -e "$TESTBED/musl/.ready" ] || return 0
	local package src=$TESTBED/src packages
	for package in busybox libseccomp runc containerd; do
		ls "$src/$package/$package"_*.orig.tar.* >/dev/null 2>&1 || source_of "$package" bookworm "$src/$package"
	done
	# Their Go libraries are Debian packages.
	mapfile -t packages < <(sed -n 's/^Build-Depends: //p' "$src"/{runc,containerd}/*.dsc | grep -oE 'golang-[a-z0-9.-]*-dev' | sort -u)
	make_root musl-build bookworm golang-go gcc libc6-dev make musl-dev musl-tools linux-libc-dev dpkg-dev gperf pkg-config "${packages[@]}"
	rm -rf "$TESTBED/musl-build/build"
	mkdir -p "$TESTBED/musl-build/build"
	say "building containerd and runc with musl"
	# shellcheck disable=SC2016
	IN=musl-build "$HERE/enter.sh" env src="$src" GO111MODULE=off GOFLAGS=-trimpath GOCACHE=/build/cache GOPATH=/build/go:/usr/share/gocode bash -euc '
		for headers in linux asm-generic mtd x86_64-linux-gnu/asm; do ln -sfn "/usr/include/$headers" "/usr/include/x86_64-linux-musl/${headers##*/}"; done
		mkdir -p /build/bin /build/go/src/github.com/{containerd,opencontainers}
		cd /build
		for package in busybox libseccomp runc containerd; do dpkg-source --no-check -x "$src/$package"/*.dsc "$package"; done
		go=/build/go/src/github.com
		mv runc "$go/opencontainers/"
		mv containerd "$go/containerd/"

		(cd busybox && make -s defconfig CC=musl-gcc HOSTCC=gcc && make -s -j2 CC=musl-gcc HOSTCC=gcc && cp busybox /build/bin/)
		(cd libseccomp && ./configure -q --host=x86_64-linux-musl CC=musl-gcc --disable-shared --prefix=/build/seccomp && make -s -j2 install)
		CGO_ENABLED=1 CC=musl-gcc PKG_CONFIG_PATH=/build/seccomp/lib/pkgconfig \
			go build -o bin/ -tags seccomp,urfave_cli_no_docs -ldflags "-s -w -X main.version=1.1.5" github.com/opencontainers/runc
		CGO_ENABLED=0 go build -o bin/ -tags no_cri,no_btrfs,no_devmapper,no_zfs,no_aufs -ldflags "-s -w" \
			github.com/containerd/containerd/cmd/{containerd,containerd-shim-runc-v2,ctr}
	' >"$LOG/musl.log" 2>&1 || die "the build failed, see $LOG/musl.log"
	assemble
	chmod -R u+w "$TESTBED/musl-build/build"
	rm -rf "$TESTBED/musl-build/build"
}

# assemble: makes a tree of only what was built.
assemble() {
	local root=$TESTBED/musl applet
	rm -rf --one-file-system "$root"
	mkdir -p "$root"/{lib,usr/bin,usr/sbin,etc,dev,proc,sys,run,tmp,mnt,root,var/tmp}
	ln -s usr/bin usr/sbin "$root/"
	cp "$TESTBED/musl-build/usr/lib/x86_64-linux-musl/libc.so" "$root/lib/ld-musl-x86_64.so.1"
	cp "$TESTBED"/musl-build/build/bin/* "$root/usr/bin/"
	for applet in $(IN=musl-build "$HERE/enter.sh" /build/bin/busybox --list-full); do [ -e "$root/$applet" ] || ln -s /bin/busybox "$root/$applet"; done
	printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	printf 'NAME="busybox and musl"\nID=busybox-musl\n' >"$root/etc/os-release"
	cp -L /etc/hosts /etc/resolv.conf "$root/etc/"
	# No file may name glibc's loader or one of its libraries.
	! grep -rlE 'ld-linux-x86-64|libc\.so\.6|GLIBC_2' "$root" || die "these need glibc"
	touch "$root/.ready"
}

case ${1:-} in
bookworm) make_root bookworm bookworm docker.io iptables iproute2 procps ;;
musl) musl ;;
*) die "usage: $0 bookworm|musl" ;;
esac
