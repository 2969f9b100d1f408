#!/bin/bash
# build.sh: builds our static criu, from CRIU 4.2.1 and patches/*.patch. Prints its path as the last line. Its folder also
# has the licence, COPYING, and the list of the libraries that are linked in, `linked`.
#
# Takes about a minute the first time, and no time while this file and the patches stay the same. Needs Debian or Ubuntu
# with root or sudo, and an apt mirror that carries Debian sid. May run several times at once.
# FREEZE_ARCH=arm64 builds for that architecture, which this machine's dpkg must know (integration/machines/build-arm64).
#
# Licence of this file: Apache-2.0. The criu that it builds is GPL-2.0, as CRIU is.
# shellcheck disable=SC2016
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

version=4.2.1
tarball=criu_$version.orig.tar.xz
checksum=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
packages=(build-essential pkg-config protobuf-c-compiler protobuf-compiler python3 xz-utils)
libraries=(libprotobuf-dev libprotobuf-c-dev libcap-dev libnl-3-dev libnet1-dev uuid-dev libbsd-dev libaio-dev)
arch=${FREEZE_ARCH:-}
# make's arguments for a cross build, and the prefix of the tools' names.
cross=() prefix=''
case $arch in
'') packages+=("${libraries[@]}") ;;
arm64)
	prefix=aarch64-linux-gnu-
	cross=(ARCH=aarch64 "CROSS_COMPILE=$prefix")
	packages+=(gcc-aarch64-linux-gnu "${libraries[@]/%/:arm64}")
	export PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig
	;;
*) echo "criu/build.sh: FREEZE_ARCH is arm64, or not set" >&2 && exit 2 ;;
esac

# systemd and CI may set no HOME; bash then takes the tilde from the user database.
cache=${FREEZE_CACHE:-${XDG_CACHE_HOME:-${HOME:-~}/.cache}/freeze}/criu
id=$(cd "$here" && cat build.sh patches/*.patch | sha256sum | cut -d' ' -f1)
result=$cache/$id${arch:+-$arch}/criu
[ -z "${FREEZE_DEBIAN_MIRROR:-}" ] || packages+=(debian-archive-keyring)
[ "${1:-}" != packages ] || { echo "${packages[@]}" && exit; }

say() { echo "criu/build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi
}

install_packages() {
	local p missing=()
	for p in "${packages[@]}"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	{
		as_root apt-get -qq update
		as_root apt-get -qq install -y --no-install-recommends "${missing[@]}"
	} >"$cache/apt.log" 2>&1 || die "the packages could not be installed, see $cache/apt.log"
}

have_tarball() { echo "$checksum  $cache/$tarball" | sha256sum --status -c 2>/dev/null; }

# mirror: prints the Debian mirror that this machine's apt uses. Ubuntu's apt has none, so FREEZE_DEBIAN_MIRROR may name one.
mirror() {
	local list
	list=${FREEZE_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian')}
	if [ -z "$list" ]; then
		as_root apt-get -qq update >&2 || true
		list=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian')
	fi
	[ -n "$list" ] || return 1
	echo "${list%%$'\n'*}"
}

# Downloads the source by apt with lists of its own, so that this machine's apt sources stay as they are.
fetch_tarball() {
	local apt=$work/apt from trust='' options
	from=$(mirror) || return 1
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/source"
	[ -z "${FREEZE_DEBIAN_MIRROR:-}" ] || trust='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
	echo "deb-src ${trust}$from sid main" >"$apt/sources.list"
	options=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
		-o Dir::Cache="$apt/cache" -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User="$(id -un)")
	apt-get "${options[@]}" update || return 1
	# A mirror may lack the Debian part of the source package. Only the orig tarball is needed, and it is checked below.
	(cd "$apt/source" && apt-get "${options[@]}" source --download-only "criu/sid") || true
	[ -e "$apt/source/$tarball" ] || return 1
	mv "$apt/source/$tarball" "$cache/$tarball"
}

build() {
	local tree=$work/tree p
	mkdir "$tree"
	tar -xf "$cache/$tarball" --strip-components=1 -C "$tree"
	for p in "$here"/patches/*.patch; do
		patch -s -f -d "$tree" -p1 <"$p" || { echo "$p does not apply"; return 1; }
	done
	# criu contains the time of its build, by which it recognises the cache of another build. A time made from the ID serves
	# as well, and gives the same bytes each time.
	export SOURCE_DATE_EPOCH=$((16#${id:0:8}))
	# The first make builds the tools that run on this machine, as dynamic programs. Only the last link may be static.
	make -C "$tree" -j"$(nproc)" "${cross[@]}" NO_GNUTLS=1 criu || return 1
	rm "$tree/criu/criu"
	# A build ID would depend on this folder's name, which is in the debug information.
	make -C "$tree" -j"$(nproc)" "${cross[@]}" NO_GNUTLS=1 LDFLAGS="-static -Wl,--build-id=none,-Map=$work/map" criu || return 1
	mkdir "$work/result"
	"${prefix}strip" -o "$work/result/criu" "$tree/criu/criu"
	cp "$tree/COPYING" "$work/result/"
	linked "$work/map" >"$work/result/linked"
}

# linked MAP: prints the libraries of this machine that the linker used, one a line: Debian package, version, source package.
linked() {
	# Some packages list /lib for files in /usr/lib.
	sed -n '/^Archive member/,/^Memory/s,^\(/[^(]*\)(.*,\1,p' "$1" | sort -u | xargs realpath | sed 's,^/usr,*,' |
		xargs dpkg-query -S | cut -d: -f1 | sort -u | xargs dpkg-query -W -f '${Package} ${Version} ${source:Package}\n'
}

mkdir -p "$cache"
# A second build waits for the first and finds its result.
exec 9>"$cache/lock"
flock 9
if [ ! -x "$result" ]; then
	work=$(mktemp -d "$cache/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	install_packages 9>&-
	have_tarball || fetch_tarball >"$cache/fetch.log" 2>&1 9>&- || true
	have_tarball || die "there is no source of criu $version (see $cache/fetch.log).
  If this machine's apt knows no Debian mirror, name one in FREEZE_DEBIAN_MIRROR. If Debian sid has moved on to another version,
  name Debian's snapshot archive of a day that has this one, or put $tarball with the sha256
  $checksum
  at $cache/$tarball. Then start again."
	say "building criu $version"
	build >"$cache/build.log" 2>&1 9>&- || die "the build failed, see $cache/build.log"
	rm -rf "$(dirname "$result")"
	mv "$work/result" "$(dirname "$result")"
fi
echo "$result"
