#!/usr/bin/env bash
# box.sh - makes fresh boxes, which are containers, with runc.
#
#   box.sh run   [options] ROOT CMD...   in the foreground, removed afterwards
#   box.sh start [options] ROOT CMD...   in the background; prints PID and address
#   box.sh exec  ID CMD...               runs a command in a box
#   box.sh pid|ip|upper|pids ID          facts about a box
#   box.sh kill  ID [SIGNAL]             signals its PID 1 (KILL), waits for its end
#   box.sh rm    ID                      kills and removes a box
#   box.sh list [PREFIX] | clean [PREFIX]
#
# Options: --id ID, --setting privileged|caps|restricted, --net host|pair,
#   --rate RATE (for tc, such as 1gbit; in both directions, with --net pair),
#   --slot N (1 to 99: with --net pair, the address is 10.213.N.2),
#   --memory-limit MIB, --cpus LIST, --bind SRC:DST[:ro], --env K=V,
#   --add-cap CAP, --uid N, --log FILE, --upper DIR (keeps the writable layer there)
# BENCH_WORK is the work folder (default /var/tmp/freeze-bench).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=${BENCH_WORK:-/var/tmp/freeze-bench}
boxes=$work/boxes
seccomp=${BENCH_SECCOMP:-$here/../integration/sandbox/seccomp/docker-default.json}
runc() { command runc --root "$work/runc" "$@"; }
die() { echo "box: $*" >&2; exit 1; }

make_net() { # ID RATE SLOT -> sets netns and ip
	local id=$1 rate=$2 n=$3 a b
	mkdir -p "$work/net"
	if [ -n "$n" ]; then
		mkdir "$work/net/$n" || die "slot $n is taken"
	else
		for n in $(seq 100 250); do
			mkdir "$work/net/$n" 2>/dev/null && break
		done
	fi
	echo "$n" >"$boxes/$id/net"
	# packets to boxes that are gone must fail at once, not take the default route
	ip route replace unreachable 10.213.0.0/16 metric 4096
	a=fzb${n}h b=fzb${n}c
	ip netns add "fzb$n"
	ip link add "$a" type veth peer name "$b"
	ip link set "$b" netns "fzb$n"
	ip addr add "10.213.$n.1/30" dev "$a"
	ip link set "$a" up
	ip -n "fzb$n" addr add "10.213.$n.2/30" dev "$b"
	ip -n "fzb$n" link set "$b" up
	ip -n "fzb$n" link set lo up
	ip -n "fzb$n" route add default via "10.213.$n.1"
	if [ -n "$rate" ]; then
		tc qdisc add dev "$a" root tbf rate "$rate" burst 256kb latency 50ms
		tc -n "fzb$n" qdisc add dev "$b" root tbf rate "$rate" burst 256kb latency 50ms
	fi
	netns=/var/run/netns/fzb$n ip=10.213.$n.2
}

drop_net() { # ID
	local n
	[ -e "$boxes/$1/net" ] || return 0
	n=$(cat "$boxes/$1/net")
	ip link del "fzb${n}h" 2>/dev/null || true
	ip netns del "fzb$n" 2>/dev/null || true
	rmdir "$work/net/$n" 2>/dev/null || true
}

create() { # verb, options...
	local verb=$1 id= net=host rate= slot= log= upper= netns= ip=127.0.0.1 spec=()
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--id) id=$2 ;;
		--net) net=$2 ;;
		--rate) rate=$2 ;;
		--slot) slot=$2 ;;
		--log) log=$2 ;;
		--upper) upper=$2 ;;
		--setting | --memory-limit | --cpus | --bind | --env | --add-cap | --uid) spec+=("$1" "$2") ;;
		--*) die "unknown option $1" ;;
		*) break ;;
		esac
		shift 2
	done
	[ $# -ge 2 ] || die "usage: box.sh $verb [options] ROOT CMD..."
	local root=$1
	shift
	id=${id:-box-$$}
	local dir=$boxes/$id
	mkdir -p "$boxes"
	mkdir "$dir" || die "box $id exists"
	upper=${upper:-$dir/upper}
	mkdir -p "$upper" "$dir/work" "$dir/rootfs"
	# overlay needs its work folder on the file system of the upper layer
	[ "$upper" = "$dir/upper" ] || { rmdir "$dir/work"; mkdir -p "$upper.work"; ln -s "$upper.work" "$dir/work"; }
	chmod 755 "$upper"
	echo "$upper" >"$dir/upperdir"
	mount -t overlay overlay -o "lowerdir=$root,upperdir=$upper,workdir=$(readlink -f "$dir/work")" "$dir/rootfs"
	if [ "$net" = pair ]; then make_net "$id" "$rate" "$slot"; fi
	echo "$ip" >"$dir/ip"
	python3 "$here/boxspec.py" --cgroup "/freeze-bench/$id" --seccomp "$seccomp" ${netns:+--netns "$netns"} \
		"${spec[@]}" -- "$@" >"$dir/config.json" || { remove "$id"; exit 1; }
	log=${log:-$dir/log}
	if [ "$verb" = run ]; then
		local rc=0
		runc run --bundle "$dir" "$id" || rc=$?
		remove "$id"
		exit $rc
	fi
	# stdout and stderr are a pipe, as with engines
	if ! runc run --detach --pid-file "$dir/pid" --bundle "$dir" "$id" > >(exec cat >"$log" 2>/dev/null) 2>&1 </dev/null; then
		cat "$log" >&2
		remove "$id"
		exit 1
	fi
	echo "$(cat "$dir/pid") $ip"
}

gone() { # PID: waits until it has ended
	local i
	for i in $(seq 1 400); do
		[ -e "/proc/$1" ] && ! grep -q '^State:	[ZX]' "/proc/$1/status" 2>/dev/null || return 0
		sleep 0.005
	done
	return 1
}

remove() { # ID
	local dir=$boxes/$1
	[ -d "$dir" ] || return 0
	runc delete --force "$1" >/dev/null 2>&1 || true
	umount -l "$dir/rootfs" 2>/dev/null || true
	drop_net "$1"
	# --one-file-system: never into a mount that is still there
	rm -rf --one-file-system "$dir"
}

verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
run | start) create "$verb" "$@" ;;
exec)
	id=$1
	shift
	runc exec "$id" "$@"
	;;
pid) cat "$boxes/$1/pid" ;;
ip) cat "$boxes/$1/ip" ;;
upper) cat "$boxes/$1/upperdir" ;;
pids) runc ps --format json "$1" ;;
kill)
	pid=$(cat "$boxes/$1/pid")
	kill -s "${2:-KILL}" "$pid" 2>/dev/null || true
	gone "$pid"
	;;
rm) remove "$1" ;;
list) ls "$boxes" 2>/dev/null | grep "^${1:-}" || true ;;
clean) for b in $(ls "$boxes" 2>/dev/null | grep "^${1:-}"); do remove "$b"; done ;;
*)
	sed -n '2,/^set /p' "$0" | grep '^#' | cut -c3-
	exit 2
	;;
esac
