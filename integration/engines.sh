# shellcheck shell=bash
# engines.sh: runs redis under every engine except Kubernetes, and a client that counts while redis moves.
#
# The tests in the folders below source it, with this folder as the working folder. Before that they set `work` (a
# folder below $TESTBED), `application` (the prefix in the bucket) and `name` (of the containers).
# Needs root, and what integration/testbed needs.
: "${work:?}" "${application:?}" "${name:?}"
TESTBED=${TESTBED:-/var/tmp/freeze-testbed}
integration=$PWD
testbed=$integration/testbed
# The port at which hosts publish redis. Not 6379, which another test may use.
port=${port:-$((20000 + RANDOM % 10000))}
rows=()

fail() { echo "test: $*" >&2 && exit 1; }
# host NAME: prints the host's address.
host() { awk -v host="$1" '$1 == host { print "10.87.0." $2 }' "$TESTBED/run/hosts"; }
# on HOST WORD…: runs docker against the dockerd HOST.
on() { "$testbed/enter.sh" docker -H "unix://$TESTBED/docker/$1/docker.sock" "${@:2}"; }

# run_page FILE ID [WORD=VALUE…]: prints the commands of a page's block, and runs them in this shell.
run_page() {
	local commands
	commands=$("$integration/page" "$@")
	printf '%s\n' "$commands" | sed 's/^/    /'
	eval "$commands"
}

# build_images OPT HOST…: makes three images in these dockerds: `freeze`, `redis-base` (redis in /app, without freeze) and
# `freeze-redis`. OPT is the folder with freeze and criu.
build_images() {
	local folder host
	folder=$(mktemp -d "$TESTBED/images.XXXXXX")
	"$integration/../images/freeze/build" "$1" "$folder/freeze" >/dev/null
	cp -r "$integration/../images/redis" "$folder/"
	for host in "${@:2}"; do
		on "$host" image inspect redis-base >/dev/null 2>&1 ||
			tar -cf - -C "$("$integration/sandbox/root" debian)" . -C "$("$integration/sandbox/root" app-redis)" ./app | on "$host" import - redis-base >/dev/null
		on "$host" load -q -i "$folder/freeze/freeze.tar" >/dev/null
		on "$host" build -q -t freeze-redis "$folder/redis" >/dev/null
	done
	rm -r "$folder"
}

# store_variables: prints the variables by which a container reaches the bucket, one a line. Call
# `eval "$(testbed/s3.sh up)"` first.
store_variables() {
	local variable
	echo "FREEZE_STORE=s3://freeze/$application"
	for variable in AWS_ENDPOINT_URL AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do echo "$variable=${!variable}"; done
}
# manifest FILE: prints the manifest, with $port in place of 6379 as the host's port.
manifest() { sed -E "s/\\b6379:6379/$port:6379/; s/(published|hostPort): 6379/\\1: $port/" "$integration/$1"; }

# The client. $boxes lists the addresses that it tries; the newest is the last line.
boxes=$work/boxes
# arrived ADDRESS: tells the client of this address, and waits until redis answers there.
arrived() {
	[ -n "$1" ] || fail "nothing was started"
	echo "$1" >>"$boxes"
	echo "$1" >"$work/last"
	timeout 300 python3 "$integration/demo/client.py" wait "$work/last" 6379 || fail "nothing answers at $1"
}
redis() { python3 "$integration/demo/client.py" ask "$boxes" 6379 "$@"; }
client_begins() {
	rm -f "$work/seen"
	python3 "$integration/demo/client.py" count "$boxes" 6379 "$work/seen" &
	client=$!
	until [ -s "$work/seen" ]; do
		kill -0 "$client" || fail "the client has ended"
		sleep 0.05
	done
}
# client_ends FROM TO: stops the client, adds a row to the table, and fails if an answer was lost or doubled.
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

# Each engine is a function ENGINE-engine with these verbs:
#   up            starts the engine, and gives it the images that build_images made in dockerd `one`
#   start         starts a fresh container, which restores from the store; prints the address where redis will answer
#   exec WORD…    runs a command in the container
#   checkpoint    takes a checkpoint that ends the container: by exec, or by the engine's stop if it would restart it
#   remove        removes what is left
# shellcheck disable=SC2034
engines=(docker compose swarm podman podman-crun podman-rootless podman-kube containerd)

# run_flags: sets `flags`, the options of `docker run` and `podman run` for a container without any privilege.
run_flags() {
	local line
	flags=(-d -p "$port:6379" --user 1000:1000 --cap-drop ALL --security-opt no-new-privileges)
	while read -r line; do flags+=(-e "$line"); done < <(store_variables)
}
# The dockerd that docker-engine uses.
docker_host=one
docker-engine() {
	case $1 in
	up) "$testbed/docker.sh" up "$docker_host" >/dev/null ;;
	start) run_flags && on "$docker_host" run "${flags[@]}" --name "$name" freeze-redis >/dev/null && echo "$(host "$docker_host"):$port" ;;
	exec) on "$docker_host" exec "$name" "${@:2}" ;;
	checkpoint) on "$docker_host" exec "$name" /opt/freeze/freeze checkpoint ;;
	remove) on "$docker_host" rm -f "$name" ;;
	esac
}

# compose WORD…: runs docker compose in the test's own folder.
compose() { (cd "$work/compose" && on one compose -p "$name" "$@" 2>&1); }
compose-engine() {
	case $1 in
	up) "$testbed/docker.sh" up one >/dev/null ;;
	start)
		mkdir -p "$work/compose"
		manifest compose/compose.yaml >"$work/compose/compose.yaml"
		store_variables >"$work/compose/store.env"
		compose up -d >&2 && echo "$(host one):$port"
		;;
	exec) compose exec redis "${@:2}" ;;
	checkpoint) compose stop redis ;;
	remove) [ ! -e "$work/compose/compose.yaml" ] || compose down -v -t 0 ;;
	esac
}

# The dockerds that swarm-engine uses.
manager=swarm-a worker=swarm-b
# swarm_node: prints the node of the task. swarm_containers HOST: prints the service's containers on that host.
# swarm_ended: waits until no host has one.
swarm_node() { on "$manager" service ps "${name}_redis" -f desired-state=running --format '{{.Node}}' | head -n 1; }
swarm_containers() { on "$1" ps -q --filter label=com.docker.swarm.service.name="${name}_redis"; }
swarm_ended() { until [ -z "$(swarm_containers "$manager")$(swarm_containers "$worker")" ]; do sleep 0.05; done; }
swarm-engine() {
	local node=
	case $1 in
	up) "$testbed/swarm.sh" up "$manager" "$worker" && "$testbed/image.sh" copy freeze-redis "$manager" "$worker" >/dev/null ;;
	start)
		mkdir -p "$work/swarm"
		manifest swarm/stack.yaml >"$work/swarm/stack.yaml"
		store_variables | grep -v '^AWS_.*KEY' >"$work/swarm/store.env"
		on "$manager" secret inspect freeze-store >/dev/null 2>&1 ||
			printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" | on "$manager" secret create freeze-store - >/dev/null
		(cd "$work/swarm" && on "$manager" stack deploy --detach --resolve-image never -c stack.yaml "$name" >&2)
		until node=$(swarm_node) && [ -n "$node" ]; do sleep 0.05; done
		echo "$(host "$node"):$port"
		;;
	exec)
		node=$(swarm_node)
		on "$node" exec "$(swarm_containers "$node")" "${@:2}"
		;;
	checkpoint) on "$manager" service scale --detach "${name}_redis=0" && swarm_ended ;;
	remove) on "$manager" stack rm "$name" && swarm_ended ;;
	esac
}

# podman_as ENGINE WORD…: runs podman as that engine does. podman_host ENGINE: prints the engine's host.
podman_as() {
	case $1 in
	podman-crun) RUNTIME=crun "$testbed/podman.sh" "${@:2}" ;;
	podman-rootless) ROOTLESS=1 "$testbed/podman.sh" "${@:2}" ;;
	*) "$testbed/podman.sh" "${@:2}" ;;
	esac
}
podman_host() { case $1 in podman-rootless) echo "$1" ;; *) echo podman ;; esac }
podman_run() {
	case $2 in
	up) "$testbed/image.sh" copy freeze-redis "$(podman_host "$1")" >/dev/null ;;
	start) run_flags && podman_as "$1" run "${flags[@]}" --name "$name-$1" freeze-redis >/dev/null && echo "$(host "$(podman_host "$1")"):$port" ;;
	exec) podman_as "$1" exec "$name-$1" "${@:3}" ;;
	checkpoint) podman_as "$1" exec "$name-$1" /opt/freeze/freeze checkpoint ;;
	remove) podman_as "$1" rm -f -t 0 "$name-$1" ;;
	esac
}
podman-engine() { podman_run podman "$@"; }
podman-crun-engine() { podman_run podman-crun "$@"; }
podman-rootless-engine() { podman_run podman-rootless "$@"; }

# kube_secret: prints the Secret for podman/kube.yaml.
kube_secret() {
	printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: freeze-store}\nstringData:\n'
	store_variables | sed 's/^/  /; s/=/: /'
}
podman-kube-engine() {
	case $1 in
	up) for image in freeze redis-base; do "$testbed/image.sh" copy "$image" podman >/dev/null; done ;;
	start)
		mkdir -p "$work/kube"
		{ kube_secret && echo --- && manifest podman/kube.yaml; } | sed "s/{name: redis}/{name: $name}/; s/{name: freeze-store}/{name: $name-store}/; s/redis-freeze/$name-freeze/" >"$work/kube/kube.yaml"
		"$testbed/podman.sh" kube play "$work/kube/kube.yaml" >/dev/null && echo "$(host podman):$port"
		;;
	exec) "$testbed/podman.sh" exec "$name-pod-redis" "${@:2}" ;;
	checkpoint | remove) [ ! -e "$work/kube/kube.yaml" ] || "$testbed/podman.sh" kube down "$work/kube/kube.yaml" ;;
	esac
}

# containerd-engine uses the containerd of $containerd_host, in the userland $containerd_tree. ctr WORD…: runs ctr there.
containerd_host=containerd containerd_tree=root
ctr() { IN=$containerd_tree:$containerd_host NET=tb-$containerd_host "$testbed/enter.sh" ctr -a "$TESTBED/containerd/$containerd_host/containerd.sock" "$@"; }
containerd-engine() {
	case $1 in
	up) "$testbed/image.sh" copy freeze-redis containerd >/dev/null ;;
	start)
		local capability drop=()
		for capability in AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT; do
			drop+=(--cap-drop "CAP_$capability")
		done
		store_variables >"$work/containerd.env"
		ctr run -d --net-host "${drop[@]}" --seccomp --env-file "$work/containerd.env" --log-uri "file://$work/containerd.log" \
			docker.io/library/freeze-redis:latest "$name" && echo "$(host "$containerd_host"):6379"
		;;
	exec) ctr tasks exec --exec-id "exec-$RANDOM" "$name" "${@:2}" ;;
	checkpoint) ctr tasks exec --exec-id "exec-$RANDOM" "$name" /opt/freeze/freeze checkpoint ;;
	remove) ctr tasks rm -f "$name" && ctr containers rm "$name" ;;
	esac
}
