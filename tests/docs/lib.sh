# shellcheck shell=bash disable=SC2154
# lib.sh: what the scripts beside it need to run the commands of pages; sourced by them, with the checkout as the working folder. Makes the
# folder $work below WORK_IN, which goes when the script ends. They set $opt, the folder with freeze and criu.

checkout=$PWD
work=$(mktemp -d "${WORK_IN:-/var/tmp}/freeze-docs.XXXXXX")
: >"$work/printed"

# ended COMMAND…: for a trap on EXIT: cleans up by COMMAND, and where the script failed shows what its last commands printed.
ended() {
	local status=$?
	[ "$status" = 0 ] || { cat "$work/printed" && echo "tests/docs: failed with status $status"; } >&2
	"$@" >/dev/null 2>&1 || true
	rm -rf "$work"
	return "$status"
}

# run PAGE ID [WORD=VALUE…]: runs a block of a page in this shell, as integration/page gives it.
run() {
	local commands
	echo "# $1: $2"
	commands=$("$checkout/integration/page" "$checkout/$1" "${@:2}")
	eval "$commands" >"$work/printed" 2>&1
}

# try PAGE ID [WORD=VALUE…]: the same for a block in which a command may fail, as people at a prompt would not mind.
try() {
	set +e
	run "$@"
	set -e
}

# prints PATTERN…: each is found in what the last block printed.
prints() {
	local pattern
	for pattern; do grep -qe "$pattern" "$work/printed" || { echo "tests/docs: nothing like '$pattern' was printed" >&2 && exit 1; }; done
}

# reached PID STATE: the service of a container gets there, PID 1 of which is PID here. Asked from outside: what is executed in a container takes
# PIDs, which a restore may need.
reached() { "$opt/freeze" wait "$2" --timeout 60s --runtime-dir "/proc/$1/root/dev/shm/freeze"; }
