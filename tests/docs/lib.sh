# shellcheck shell=bash disable=SC2154
# lib.sh: what the scripts beside it need to run the commands of pages. They source it with the checkout as the working
# folder, and set $opt, the folder with freeze and criu. It makes the folder $work below WORK_IN; `ended` removes it.

checkout=$PWD
work=$(mktemp -d "${WORK_IN:-/var/tmp}/freeze-docs.XXXXXX")
: >"$work/printed"

# ended COMMAND…: for a trap on EXIT. Cleans up by COMMAND. If the script failed, prints the output of its last commands.
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

# try PAGE ID [WORD=VALUE…]: the same, but commands of the block may fail, as at a prompt.
try() {
	set +e
	run "$@"
	set -e
}

# prints PATTERN…: fails unless the last block printed each of these.
prints() {
	local pattern
	for pattern; do grep -qe "$pattern" "$work/printed" || { echo "tests/docs: nothing like '$pattern' was printed" >&2 && exit 1; }; done
}

# reached PID STATE: waits until the service of a container is in that state; PID is the container's PID 1, as seen here.
# Asks from outside of the container, as an exec would take PIDs that a restore may need.
reached() { "$opt/freeze" wait "$2" --timeout 60s --runtime-dir "/proc/$1/root/dev/shm/freeze"; }
