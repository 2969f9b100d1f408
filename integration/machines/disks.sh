# shellcheck shell=bash disable=SC2154 # its variables are assigned in test
# disks.sh - makes what a machine boots: its kernel, and two disks. The first has a Debian userland, the second has this
# checkout, freeze, the services and their roots, each under the path that it has here. Part of `test`.

userland=(base-files bash coreutils util-linux mount sed grep gawk findutils diffutils tar gzip jq runc kmod procps iproute2
	python3 perl-base apparmor libcap2-bin busybox-static)
# The root of the containers in which `table` moves services.
image=(base-files dash coreutils sed python3 redis-server postgresql)
# What a kernel of Debian has as modules: the disks, overlay file systems, and the socket diagnostics that criu uses.
modules=(virtio_pci virtio_mmio virtio_blk ext4 overlay unix_diag inet_diag tcp_diag udp_diag raw_diag netlink_diag af_packet_diag)

# extract SUITE FOLDER PACKAGE…: unpacks Debian's packages without running their scripts, which may be of another architecture.
extract() {
	say "unpacking ${*:3} of Debian $1 for $arch"
	rm -rf "$2"
	mmdebstrap --mode=root --variant=extract --architectures="$arch" --include="$(IFS=, && echo "${*:3}")" \
		--aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"$1" "$2" "$(mirror)" >"$LOG/machine-$arch-$1.log" 2>&1 || die "failed, see $LOG/machine-$arch-$1.log"
}

# disk FOLDER FILE MIB: makes a disk with these files and so much room.
disk() {
	truncate -s "$(($(du -sm "$1" | cut -f 1) * 5 / 4 + $3))M" "$2"
	mke2fs -q -t ext4 -O ^has_journal -d "$1" "$2" >&2
}

# make_userland: the disk userland-ARCH, once.
make_userland() {
	local tree=$base/tree-$arch made=$base/userland-$arch recipe
	recipe="${userland[*]} $(declare -f make_userland | cksum)"
	[ "$(cat "$made.recipe" 2>/dev/null)" != "$recipe" ] || return 0
	extract trixie "$tree" "${userland[@]}"
	echo 'root:x:0:0:root:/root:/bin/bash' >"$tree/etc/passwd"
	echo 'root:x:0:' >"$tree/etc/group"
	ln -s bash "$tree/usr/bin/sh"
	disk "$tree" "$made" 64
	rm -rf "$tree"
	echo "$recipe" >"$made.recipe"
}

# make_image: the folder image-ARCH, once.
make_image() {
	local made=$base/image-$arch recipe
	recipe="${image[*]} $(declare -f make_image | cksum)"
	[ "$(cat "$made.recipe" 2>/dev/null)" != "$recipe" ] || return 0
	extract trixie "$made" "${image[@]}"
	mkdir -p "$made"/{data,store,volume,services,built,opt/freeze,run/freeze,files/services}
	chmod 1777 "$made"/{tmp,var/tmp,data}
	ln -sf dash "$made/usr/bin/sh"
	printf '%s:x:%s::/:/bin/sh\n' root 0:0 app 1000:1000 >"$made/etc/passwd"
	printf '%s:\n' root:x:0 app:x:1000 >"$made/etc/group"
	# PostgreSQL listens to localhost.
	printf '127.0.0.1\tlocalhost\n' >"$made/etc/hosts"
	echo "$recipe" >"$made.recipe"
}

# make_kernel: ARCH-SUITE/kernel and an initrd with the modules that mount the disks, once.
make_kernel() {
	local made=$base/$arch-$suite tree=$base/tree-$arch-$suite package version file n=100
	[ ! -e "$made/initrd" ] || return 0
	case $suite in *-16k) package=linux-image-$arch-16k ;; *) package=linux-image-cloud-$arch ;; esac
	extract "${suite%-16k}" "$tree" "$package" busybox-static
	mkdir -p "$made" "$tree/initrd"/{bin,modules,proc,dev,root}
	version=$(basename "$tree"/boot/vmlinuz-*)
	version=${version#vmlinuz-}
	[ -e "$tree/lib/modules" ] || { mkdir -p "$tree/lib" && ln -s ../usr/lib/modules "$tree/lib/modules"; }
	depmod -b "$tree" "$version"
	for file in $(modprobe -d "$tree" -S "$version" --show-depends -a "${modules[@]}" 2>/dev/null | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
		# The initrd loads them in the order of these numbers.
		n=$((n + 1))
		case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac >"$tree/initrd/modules/$n-$(basename "${file%.xz}")"
	done
	cp "$(find "$tree" -path "*/bin/busybox" | head -n 1)" "$tree/initrd/bin/busybox"
	install -m 755 "$top/integration/machines/initrd" "$tree/initrd/init"
	mv "$tree/boot/vmlinuz-$version" "$made/kernel"
	echo "Debian's Linux $version for $arch" >"$made/version"
	(cd "$tree/initrd" && find . -print0 | cpio -0 -o -H newc --quiet | gzip -1) >"$made/initrd.new"
	rm -rf "$tree"
	mv "$made/initrd.new" "$made/initrd"
}

# carry FILE…: puts them onto the second disk. /files/paths lists what the guest binds to its place.
carry() {
	local file
	for file; do
		[ -e "$file" ] || die "$file does not exist"
		mkdir -p "$work/files$(dirname "$file")"
		cp -a --no-target-directory "$file" "$work/files$file"
		echo "$file" >>"$work/files/paths"
	done
}

# make_files: the second disk, for this run. The programs in C are built for the machine's architecture.
make_files() {
	local root file
	mkdir -p "$work"/files/{services/languages,state/cache}
	for file in "$top"/{docs,integration,tests,examples} "$folder" "${with[@]}"; do carry "$file"; done
	# The sandbox makes roots of this machine's architecture only.
	root=/files/image
	if [ "$arch" = "$(dpkg --print-architecture)" ]; then root=$("$top/integration/sandbox/root" busybox) && carry "$root"; fi
	cp -a "$base/image-$arch" "$work/files/image"
	cp "$top/tests/services/languages/mixed.py" "$work/files/services/languages/"
	# The cross compiler sees only $TESTBED.
	mkdir -p "$work"/sources/{services,states}
	cp "$top/integration/sandbox/shim.c" "$work/sources/"
	cp "$top"/tests/services/*.[ch] "$work/sources/services/"
	cp "$top"/tests/states/*.[ch] "$work/sources/states/"
	"${cc[@]}" -O1 -pthread -static -o "$work/files/state/cache/shim" "$work/sources/shim.c"
	"${cc[@]}" -std=gnu11 -O1 -pthread -static -o "$work/files/services/service" "$work"/sources/*/*.c
	cp "$top/integration/machines/guest" "$work/files/guest"
	{
		declare -p folder root yama apparmor command top
		echo "export FREEZE_TEST_OPT=$folder FREEZE_TEST_ROOT=$root FREEZE_TEST_SERVICES=/files/services"
	} >"$work/files/settings"
	disk "$work/files" "$work/files.ext4" 2048
	rm -rf "$work/files"
}
