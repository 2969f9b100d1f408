# shellcheck shell=bash disable=SC2317,SC2329 # its functions are called by what sources it, and by commands of pages
# common.sh OPT: for the tests of simulated platforms; sourced by integration/PLATFORM/test.
#
# Each test runs the service of its own manifests in the sandbox with that platform's settings, stops it as the platform
# does, and starts it again as another node would, while a client counts. The whole test is in a network namespace of its
# own with an S3 server in it, which is the host's network for containers without a network namespace.
# OPT is the folder with freeze and criu. Needs root.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
[ "$EUID" = 0 ] || exec sudo --preserve-env=HOME,FREEZE_CACHE,FREEZE_PLATFORMS_TABLE "$0" "$@"
if [ -z "${FREEZE_PLATFORMS_SERVER:-}" ]; then
	"$here/../s3/server" install >/dev/null
	"$here/python" >/dev/null
	# Before the network is gone, because the roots are made of Debian's packages.
	"$here/../sandbox/root" app-redis >/dev/null
	"$here/../sandbox/root" busybox >/dev/null
	FREEZE_PLATFORMS_SERVER=1 exec unshare --net -- sh -c 'ip link set lo up && exec "$@"' sh "$here/../s3/server" run "$0" "$@"
fi
opt=$1
platform=$(basename "$(dirname "$(readlink -f "$0")")")
cd "$here/../$platform"
sandbox=$here/../sandbox/sandbox
python=$("$here/python")
work=$(mktemp -d /tmp/freeze-platforms.XXXXXX)
app=$("$here/../sandbox/root" app-redis)
busybox=$("$here/../sandbox/root" busybox)
table=${FREEZE_PLATFORMS_TABLE:-$work/table}
helpers=()
box=''

finish() {
	[ ${#helpers[@]} = 0 ] || kill "${helpers[@]}" 2>/dev/null || true
	$sandbox clean "freeze-$platform-"
	rm -rf "$work"
}
trap finish EXIT
$sandbox clean "freeze-$platform-"

fail() {
	echo "test: $platform: $*" >&2
	[ -z "$box" ] || $sandbox logs "$box" >&2 2>&1 || true
	exit 1
}

# definition FILE: sets variables from the file (definition.py), and from images/redis where the file relies on the image.
definition() {
	local assignments dockerfile=$here/../../images/redis/Dockerfile
	kind='' user='' groups='' argv=() shell='' env=() grace=0 signal='' level='' cap_drop=''
	assignments=$("$python" "$here/definition.py" "$1")
	eval "$assignments"
	signal=${signal:-TERM}
	[ -z "$shell" ] || argv=(/bin/sh -c "$shell")
	# The last stage of the Dockerfile is the one that runs.
	[ ${#argv[@]} -gt 0 ] || mapfile -t argv < <(sed -n 's/^ENTRYPOINT //p' "$dockerfile" | tail -n 1 | jq -r '.[]')
	image_user=$(sed -n 's/^USER //p' "$dockerfile" | tail -n 1)
}

# application NAME: begins an application with a store of its own, as the Secret or the variables give it.
application() {
	application=$platform-$1-$RANDOM$RANDOM
	number=0
	: >"$work/boxes"
	rm -f "$work/seen"
	store=(--env "FREEZE_STORE=s3://freeze/$application")
	local name
	for name in AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION; do store+=(--env "$name=${!name}"); done
}

# launch: starts the next container. The test's function `container` sets `run`, the sandbox's options, and may change
# `argv`.
launch() {
	local pid one
	number=$((number + 1))
	box=freeze-$application-$number
	container
	for one in "${env[@]}"; do [[ $one == FREEZE_STORE=* ]] || run+=(--env "${one//\$\{NOMAD_ALLOC_ID\}/${alloc:-}}"); done
	pid=$($sandbox start --id "$box" "${run[@]}" "${store[@]}" "$app:$busybox" "${argv[@]}") || fail "it did not start"
	if [ "$(readlink "/proc/$pid/ns/net")" = "$(readlink /proc/self/ns/net)" ]; then
		echo 127.0.0.1 >"$work/last"
	else
		python3 "$here/../demo/client.py" relay "$pid" "${AWS_ENDPOINT_URL##*:}" "${AWS_ENDPOINT_URL##*:}" &
		helpers+=($!)
		echo "$pid" >"$work/last"
	fi
	cat "$work/last" >>"$work/boxes"
}

# up: waits until redis answers. Fails if its container ends first.
up() {
	python3 "$here/../demo/client.py" wait "$work/last" 6379 &
	local waiter=$!
	while kill -0 $waiter 2>/dev/null; do
		[ ! -e "$($sandbox dir "$box")/status" ] || { kill $waiter && fail "its container ended"; }
		sleep 0.02
	done
}

# ended SECONDS: fails unless the container ends with a checkpoint before the platform would kill it.
ended() {
	local status=0
	timeout "$1" "$sandbox" wait "$box" >/dev/null || status=$?
	[ $status = 172 ] || fail "it ended with $status, and not with a checkpoint"
}

redis() { $sandbox exec "$box" /app/redis-cli "$@"; }

# stop: stops the container as the platform does.
stop() {
	$sandbox kill "$box" "$signal"
	ended "$grace"
}

# by_exec: checkpoints by the command in the block $page of the platform's page.
by_exec() {
	eval "$("$here/../page" README.md "$page")" >"$work/answer" 2>&1 || fail "$(cat "$work/answer")"
	ended 10
}
page='exec'
# Stand-ins for the platforms' clients: each runs the command in the container.
kubectl() { $sandbox exec "$box" "${@:4}"; }
oc() { kubectl "$@"; }
nomad() { $sandbox exec "$box" "${@:6}"; }
docker() { $sandbox exec "$box" "${@:3}"; }
dcos() { $sandbox exec "$box" "${@:4}"; }

# moves SETTING TRIGGER WORDS: moves an application with 4 MiB of random keys from one container to the next, by TRIGGER
# (stop or by_exec). SETTING and WORDS are for the table.
moves() {
	local before
	application "${2//_/-}"
	launch
	up
	redis eval 'for i = 1, 4096 do local t = {} for j = 1, 64 do t[j] = string.format("%016x", math.random(0, 2^52)) end
		redis.call("set", "key:" .. i, table.concat(t)) end' 0 >/dev/null
	before=$(redis dbsize)
	python3 "$here/../demo/client.py" count "$work/boxes" 6379 "$work/seen" &
	local client=$!
	helpers+=("$client")
	until [ -s "$work/seen" ]; do sleep 0.02; done
	"$2"
	$sandbox logs "$box" >"$work/first.log" 2>&1
	$sandbox rm "$box"
	launch
	up
	sleep 0.2
	kill -INT "$client"
	wait "$client"
	# The client's counter is one more key.
	[ "$(redis dbsize)" = $((before + 1)) ] || fail "keys were lost"
	jq -e '.lost + .doubled == 0' "$work/seen" >/dev/null || fail "answers were lost or doubled: $(cat "$work/seen")"
	$sandbox logs "$box" 2>&1 | grep -aq 'freeze: restoring generation 1 ' || fail "it was not restored"
	printf '| %s | %s | %s | %d keys, %d answers, none lost or doubled | %d ms |\n' "$platform" "$1" "$3" "$before" \
		"$(jq .answers "$work/seen")" "$(jq '.gap_ms | floor' "$work/seen")" | tee -a "$table"
	$sandbox rm "$box"
}

kubernetes_variables=(--env KUBERNETES_SERVICE_HOST=10.43.0.1 --env KUBERNETES_SERVICE_PORT=443 --env KUBERNETES_SERVICE_PORT_HTTPS=443
	--env KUBERNETES_PORT=tcp://10.43.0.1:443 --env KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443 --env KUBERNETES_PORT_443_TCP_PROTO=tcp
	--env KUBERNETES_PORT_443_TCP_PORT=443 --env KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1)
