# shellcheck shell=bash
# engines.sh: redis under every engine that is not Kubernetes, and the client that counts while it moves. Sourced, in this folder, by the tests in
# the folders below. Before an engine starts anything, set `application` (the prefix in the bucket) and `name` (of the containers).
# Needs root, and what integration/testbed needs.
TESTBED=${TESTBED:-/var/tmp/freeze-testbed}
integration=$PWD
testbed=$integration/testbed
# Where hosts publish redis: 6379 may be another test's.
port=${port:-$((20000 + RANDOM % 10000))}
rows=()

fail() { echo "test: $*" >&2 && exit 1; }
# host NAME: its address.
host() { awk -v host="$1" '$1 == host { print "10.87.0." $2 }' "$TESTBED/run/hosts"; }
# on HOST…: docker of the dockerd HOST.
on() { "$testbed/enter.sh" docker -H "unix://$TESTBED/docker/$1/docker.sock" "${@:2}"; }

# run_page FILE ID [WORD=VALUE…]: shows the commands of a page, and runs them here.
run_page() {
	local commands
	commands=$("$integration/page" "$@")
	printf '%s\n' "$commands" | sed 's/^/    /'
	eval "$commands"
}

# build_images OPT HOST…: in these dockerds, `freeze`, `redis-base` (redis in /app, nothing of freeze) and `freeze-redis`. OPT has freeze and criu.
build_images() {
	local folder
	folder=$(mktemp -d "$TESTBED/images.XXXXXX")
	cp -r "$integration/../images" "$folder/"
	cp "$1/freeze" "$1/criu" "$folder/images/freeze/"
	tar -cf "$folder/redis-base.tar" -C "$("$integration/sandbox/root" debian)" . -C "$("$integration/sandbox/root" app-redis)" ./app
	for host in "${@:2}"; do
		on "$host" import "$folder/redis-base.tar" redis-base >/dev/null
		on "$host" build -q -t freeze "$folder/images/freeze" >/dev/null
		on "$host" build -q -t freeze-redis "$folder/images/redis" >/dev/null
	done
	rm -r "$folder"
}

# store_variables: what a container must know of the bucket, a line each; `eval "$(testbed/s3.sh up)"` comes before.
store_variables() {
	local variable
	echo "FREEZE_STORE=s3://freeze/$application"
	for variable in AWS_ENDPOINT_URL AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do echo "$variable=${!variable}"; done
}
# restricted: flags of `docker run` for a container that is allowed nothing, in the array `flags`.
restricted() {
	local line
	flags=(--user 1000:1000 --cap-drop ALL --security-opt no-new-privileges)
	while read -r line; do flags+=(-e "$line"); done < <(store_variables)
}

# The client. $boxes lists the addresses that it tries, newest last.
boxes=${work:?}/boxes
# arrived ADDRESS: redis is to be found there, too, and answers there.
arrived() {
	echo "$1" >>"$boxes"
	echo "$1" >"$work/last"
	python3 "$integration/demo/client.py" wait "$work/last" 6379
}
redis() { python3 "$integration/demo/client.py" ask "$boxes" 6379 "$@"; }
client_begins() {
	rm -f "$work/seen"
	python3 "$integration/demo/client.py" count "$boxes" 6379 "$work/seen" &
	client=$!
	until [ -s "$work/seen" ]; do kill -0 "$client" && sleep 0.05; done
}
# client_ends FROM TO: no answer was lost or doubled; the row for the table.
client_ends() {
	sleep 0.3
	kill -INT "$client"
	wait "$client"
	client=
	rows+=("$(jq -r --arg from "$1" --arg to "$2" '"| \($from) | \($to) | \(.value) | \(.gap_ms | floor) ms | \(.lost), \(.doubled) |"' "$work/seen")")
	jq -e '.lost + .doubled == 0' "$work/seen" >/dev/null || fail "$1 to $2: answers were lost or doubled: $(cat "$work/seen")"
}
client_killed() { [ -z "${client:-}" ] || kill "$client" 2>/dev/null || true; }
table() { printf '%s\n' "| from | to | answers | longest gap seen | lost, doubled |" "|---|---|---|---|---|" "${rows[@]}"; }

# ENGINE-engine up: brings it up, with the images of dockerd `one` (after build_images). start: a fresh container of freeze-redis; prints the
# address where it will answer. remove. exec COMMAND….
docker-engine() {
	case $1 in
	up) "$testbed/docker.sh" up one >/dev/null ;;
	start)
		restricted
		on one run -d --name "$name" -p "$port:6379" "${flags[@]}" freeze-redis >/dev/null
		echo "$(host one):$port"
		;;
	remove) on one rm -f "$name" ;;
	exec) on one exec "$name" "${@:2}" ;;
	esac
}
# podmans COMMAND… of podman.sh; then as for all engines.
podmans() {
	local address
	case $2 in
	up) "$testbed/image.sh" copy freeze-redis "$1" >/dev/null ;;
	start)
		restricted
		"$1-podman" run -d --name "$name" -p "$port:6379" "${flags[@]}" freeze-redis >/dev/null
		echo "$(host "$1"):$port"
		;;
	remove) "$1-podman" rm -f -t 0 "$name" ;;
	exec) "$1-podman" exec "$name" "${@:3}" ;;
	esac
}
