# shellcheck shell=bash disable=SC2154 # its variables are assigned in sandbox
# config.sh - writes the OCI config.json of a container, from the variables that `sandbox` sets from its command line.
# Part of `sandbox`.

docker_caps=(CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
	NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE)

settings='restricted, restricted-podman, openshift, openshift-3, docker, nomad-docker, nomad-exec, mesos, mesos-no-image, caps, file-caps, ambient, nested, user-namespace or unconfined'

# choose_setting: sets these variables for $setting:
#   uid, gid, no_new_privs
#   caps (the bounding set), effective, ambient
#   profile      a file in seccomp/, or empty
#   masked       whose list of masked paths in /proc and /sys, or none
#   namespaces   beside mount
#   first_id     root's ID outside of a user namespace, or empty
choose_setting() {
	local cap
	uid=1000 gid=1000 no_new_privs=true caps=() ambient=() profile=docker-default masked=docker namespaces=(pid ipc uts cgroup network) first_id=''
	case $setting in
	restricted) ;;
	restricted-podman) profile=containers-common ;;
	openshift) uid=1000650000 gid=0 profile=cri-o ;;
	openshift-3)
		uid=1000650000 gid=0 no_new_privs=false profile=''
		for cap in "${docker_caps[@]}"; do [[ $cap =~ ^(KILL|MKNOD|SETGID|SETUID)$ ]] || caps+=("$cap"); done
		;;
	file-caps) no_new_privs=false caps=(CHECKPOINT_RESTORE SYS_PTRACE SETPCAP) ;;
	ambient) caps=(CHECKPOINT_RESTORE) ambient=(CHECKPOINT_RESTORE) ;;
	nested) profile=containers-common masked=none ;;
	docker) be_root ;;
	nomad-docker) be_root && without_net_raw ;;
	nomad-exec)
		be_root && without_net_raw
		uid=65534 ambient=("${caps[@]}") profile='' masked=nomad namespaces=(pid ipc)
		;;
	mesos) no_new_privs=false caps=("${all_caps[@]}") profile='' masked=mesos namespaces=(pid) ;;
	mesos-no-image) no_new_privs=false caps=("${all_caps[@]}") profile='' masked=none namespaces=(pid) ;;
	caps) be_root && caps+=(CHECKPOINT_RESTORE) ;;
	user-namespace) be_root && caps+=(CHECKPOINT_RESTORE) && first_id=100000 ;;
	unconfined) be_root && caps+=(CHECKPOINT_RESTORE SYS_PTRACE) && profile='' ;;
	*) die "unknown setting $setting: $settings" ;;
	esac
	if $drop_all; then caps=() ambient=(); fi
	[ -z "$user" ] || uid=${user%:*} gid=${user#*:}
	effective=("${ambient[@]}")
	[ "$uid" != 0 ] || effective=("${caps[@]}")
	caps=("${caps[@]/#/CAP_}") effective=("${effective[@]/#/CAP_}") ambient=("${ambient[@]/#/CAP_}")
}

be_root() { uid=0 gid=0 no_new_privs=false caps=("${docker_caps[@]}"); }

without_net_raw() {
	local cap kept=()
	for cap in "${caps[@]}"; do [ "$cap" = NET_RAW ] || kept+=("$cap"); done
	caps=("${kept[@]}")
}

# Every capability that this kernel has and runc knows.
all_caps=("${docker_caps[@]}" DAC_READ_SEARCH LINUX_IMMUTABLE NET_BROADCAST NET_ADMIN IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_PTRACE
	SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG LEASE AUDIT_CONTROL MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE)

# json STRING: prints it as a JSON string.
json() {
	local s=$1
	s=${s//\\/\\\\}
	s=${s//\"/\\\"}
	s=${s//$'\n'/\\n}
	s=${s//$'\t'/\\t}
	[[ $s != *[[:cntrl:]]* ]] || die "a control character in an argument: $1"
	printf '"%s"' "$s"
}

# json_list STRING…: prints them as the elements of a JSON array.
json_list() {
	local s sep=''
	for s; do
		printf '%s' "$sep"
		json "$s"
		sep=', '
	done
}

# mount_entry DST TYPE SRC OPTION…: prints one more mount.
mount_entry() {
	printf ',\n    {"destination": %s, "type": "%s", "source": %s, "options": [%s]}' \
		"$(json "$1")" "$2" "$(json "$3")" "$(json_list "${@:4}")"
}

extra_mounts() {
	local bind src dst mode
	for bind in "${tmpfs[@]}"; do mount_entry "$bind" tmpfs tmpfs nosuid noexec nodev mode=1777; done
	for bind in "${binds[@]}"; do
		IFS=: read -r src dst mode <<<"$bind"
		[ -e "$src" ] || die "--bind $bind: $src does not exist"
		mount_entry "$dst" bind "$(readlink -f "$src")" rbind rprivate "${mode:-rw}"
	done
}

# CRI-O makes its profile from containers-common's.
profile_file() { echo "$here/seccomp/${profile/cri-o/containers-common}.json"; }

# resolved_profile: prints the profile, resolved for this setting's capabilities; made once, then cached.
resolved_profile() {
	local kernel machine arch made
	read -r kernel </proc/sys/kernel/osrelease
	made=$state/cache/seccomp-$setting-$kernel.json
	if [[ ! ($made -nt $(profile_file) && $made -nt $here/resolve.jq && $made -nt $here/cri-o.jq && $made -nt $here/config.sh) ]]; then
		machine=$(uname -m)
		case $machine in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$machine ;; esac
		if [ "$profile" = cri-o ]; then jq -f "$here/cri-o.jq" "$(profile_file)"; else cat "$(profile_file)"; fi |
			jq -c --arg kernel "$kernel" --arg machine "$machine" --arg arch "$arch" --argjson caps "[$held]" \
				-f "$here/resolve.jq" >"$made.$$"
		mv "$made.$$" "$made"
	fi
	cat "$made"
}

# seccomp: prints the container's linux.seccomp, or nothing without a filter. The system calls of --deny fail whatever the
# profile says.
seccomp() {
	local one filter='{"defaultAction": "SCMP_ACT_ALLOW"}'
	[ -z "$profile" ] || filter=$(resolved_profile)
	for one in "${deny[@]}"; do
		[[ $one =~ ^(EPERM|ENOSYS|EINVAL)=([a-z0-9_]+(:[0-9]+)?(,[a-z0-9_]+(:[0-9]+)?)*)$ ]] ||
			die "--deny $one: it is EPERM=NAME,… or ENOSYS=… or EINVAL=…, and NAME:N where the call's second argument is N"
		filter=$(jq -c --arg errno "${BASH_REMATCH[1]}" --arg calls "${BASH_REMATCH[2]}" -f "$here/deny.jq" <<<"$filter")
	done
	if [ -n "$profile" ] || [ ${#deny[@]} -gt 0 ]; then printf '%s' "$filter"; fi
}

# protected_paths: prints maskedPaths and readonlyPaths, as the engine $masked sets them.
protected_paths() {
	case $masked in
	docker)
		printf '"maskedPaths": [%s], "readonlyPaths": [%s],' \
			"$(json_list /proc/{acpi,asound,interrupts,kcore,keys,latency_stats,sched_debug,scsi,timer_list,timer_stats} \
				/sys/devices/virtual/powercap /sys/firmware)" \
			"$(json_list /proc/{bus,fs,irq,sys,sysrq-trigger})"
		;;
	nomad)
		printf '"maskedPaths": [%s], "readonlyPaths": [%s],' "$(json_list /proc/kcore /sys/firmware)" \
			"$(json_list /proc/{sys,sysrq-trigger,irq,bus})"
		;;
	mesos)
		printf '"maskedPaths": [%s], "readonlyPaths": [%s],' \
			"$(json_list /proc/{acpi,asound,kcore,keys,key-users,latency_stats,sched_debug,scsi,timer_list,timer_stats} /sys/firmware)" \
			"$(json_list /proc/{bus,fs,irq,sys,sysrq-trigger})"
		;;
	esac
}

# id_mapping uid|gid: prints that mapping of a user namespace.
id_mapping() { printf '\n    "%sMappings": [{"containerID": 0, "hostID": %s, "size": 65536}]' "$1" "$first_id"; }

# cgroup_path ID: prints the container's cgroup. The name is flat, so that no cgroup is shared with another state folder.
cgroup_path() { printf '/freeze%s.%s' "${state//\//.}" "$1"; }

# rlimits: prints the limits of PID 1: those of --ulimit, and a soft one of 1024 open files.
rlimits() {
	local one nofile between=''
	nofile=$(ulimit -Hn)
	[[ $nofile != unlimited && $nofile -le 524288 ]] || nofile=524288
	[[ " ${ulimits[*]}" == *' nofile='* ]] || {
		printf '{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": %s}' "$nofile"
		between=', '
	}
	for one in "${ulimits[@]}"; do
		[[ $one =~ ^([a-z]+)=([0-9]+)$ ]] || die "--ulimit $one: it is NAME=N"
		printf '%s{"type": "RLIMIT_%s", "soft": %s, "hard": %s}' "$between" "${BASH_REMATCH[1]^^}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[2]}"
		between=', '
	done
}

# sysctl: prints those of --sysctl.
sysctl() {
	local one between=''
	for one in "${sysctls[@]}"; do
		[[ $one =~ ^([a-z0-9_.]+)=(.*)$ ]] || die "--sysctl $one: it is NAME=VALUE"
		printf '%s"%s": %s' "$between" "${BASH_REMATCH[1]}" "$(json "${BASH_REMATCH[2]}")"
		between=', '
	done
}

write_config() {
	local held filter paths='' kinds kind limit='' argv environ mounts name='' label=''
	held=$(json_list "${caps[@]}")
	argv=$(json_list "${args[@]}")
	environ=$(json_list PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ "${env[@]}")
	mounts=$(extra_mounts)
	kinds=" ${namespaces[*]} "
	[ "$net" = own ] || kinds=${kinds/ network / }
	[ "$pids" = own ] || kinds=${kinds/ pid / }
	[ "$ipc" = own ] || kinds=${kinds/ ipc / }
	if [[ $kinds == *' cgroup '* ]]; then
		mounts="$(mount_entry /sys/fs/cgroup cgroup cgroup nosuid noexec nodev relatime ro)$mounts"
	fi
	if [[ $kinds == *' uts '* ]]; then name="\"hostname\": $(json "${hostname:-$id}"),"; fi
	read -ra kinds <<<"$kinds"
	filter=$(seccomp)
	[ -z "$filter" ] || filter=", \"seccomp\": $filter"
	if [ -n "$first_id" ]; then
		kinds+=(user)
		paths="$(id_mapping uid), $(id_mapping gid),"
	fi
	paths+=$(protected_paths)
	if [ -n "$memory" ]; then limit=", \"memory\": {\"limit\": $((memory << 20)), \"swap\": $((memory << 20))}"; fi
	if [ -n "${FREEZE_SANDBOX_APPARMOR:-}" ]; then label="\"apparmorProfile\": $(json "$FREEZE_SANDBOX_APPARMOR"),"; fi
	cat <<-END
		{
		  "ociVersion": "1.0.2",
		  $name
		  "root": {"path": "rootfs", "readonly": $read_only},
		  "process": {
		    "terminal": $tty,
		    "user": {"uid": $uid, "gid": $gid, "additionalGids": [$groups]},
		    "args": [$argv],
		    "cwd": $(json "$cwd"),
		    "env": [$environ],
		    "capabilities": {"bounding": [$held], 
		      "effective": [$(json_list "${effective[@]}")], "permitted": [$(json_list "${effective[@]}")],
		      "inheritable": [$(json_list "${ambient[@]}")], "ambient": [$(json_list "${ambient[@]}")]},
		    $label
		    "noNewPrivileges": $no_new_privs,
		    "rlimits": [$(rlimits)]
		  },
		  "mounts": [
		    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
		    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
		    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
		    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
		    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
		    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}$mounts
		  ],
		  "linux": {$paths
		    "namespaces": [{"type": "mount"}$(for kind in "${kinds[@]}"; do printf ', {"type": "%s"}' "$kind"; done)],
		    "sysctl": {$(sysctl)},
		    "cgroupsPath": "$(cgroup_path "$id")",
		    "resources": {"devices": [
		      {"allow": false, "access": "rwm"},
		      {"allow": true, "type": "c", "access": "m"},
		      {"allow": true, "type": "b", "access": "m"}
		    ]$limit}$filter
		  }
		}
	END
}
