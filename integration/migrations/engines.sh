# shellcheck shell=bash
# engines.sh: more engines between which redis moves, with the verbs of ../engines.sh: Kubernetes, hosts with other
# userlands, and simulated platforms. Sourced after ../engines.sh.
# Containers of Kubernetes and of simulated platforms run as $user.
: "${testbed:?}" "${work:?}" "${built:?}"
user=1000:1000

# bookworm: a Docker host with the userland and the docker of another Debian release.
bookworm-engine() {
	if [ "$1" = up ]; then
		"$testbed/userland.sh" bookworm
		TREE=bookworm "$testbed/docker.sh" up bookworm >/dev/null
		"$testbed/image.sh" copy freeze-redis bookworm >/dev/null
	else
		IN=bookworm docker_host=bookworm docker-engine "$@"
	fi
}
# musl: a containerd host without glibc.
musl-engine() {
	# shellcheck disable=SC2034 # of containerd-engine
	local containerd_host=musl containerd_tree=musl
	if [ "$1" = up ]; then
		"$testbed/userland.sh" musl
		TREE=musl "$testbed/containerd.sh" up musl >/dev/null
		on one save freeze-redis >"$work/image.tar"
		ctr images import "$work/image.tar" >/dev/null
		rm "$work/image.tar"
	else
		containerd-engine "$@"
	fi
}

kubectl() { "$TESTBED/k8s-bin/kubectl" --kubeconfig "$TESTBED/k8s-data/kubeconfig" "$@"; }
# kubernetes NODE VERB…: the engine's verbs for a pod on that node, of user $user, with a Secret.
kubernetes() {
	local pod=$name-$1 address
	case $2 in
	up)
		[ "$1" = node1 ] || return 0
		"$testbed/k8s.sh" up >/dev/null
		for node in 21 22; do ip route replace "10.89.$node.0/24" via "10.87.0.$node"; done
		"$testbed/image.sh" copy freeze-redis k8s >/dev/null 2>&1
		kubectl create --dry-run=client -o json -f migrations/pod.yaml | jq -s . >"$work/pod.json"
		;;
	start)
		store_variables | jq -R 'split("=") | {(.[0]): .[1:] | join("=")}' |
			jq -s --arg pod "$pod" --arg node "$1" --arg user "$user" --slurpfile objects "$work/pod.json" 'add as $store |
				{apiVersion: "v1", kind: "List", items: ($objects[0] | map(.metadata.name = $pod |
				if .kind == "Secret" then .stringData = $store else
					.spec.nodeSelector = {"kubernetes.io/hostname": $node} | .spec.containers[].envFrom[].secretRef.name = $pod |
					.spec.securityContext += ($user | split(":") | {runAsUser: .[0] | tonumber, runAsGroup: .[1] | tonumber}) end))}' |
			kubectl create -f - >/dev/null
		until address=$(kubectl get pod "$pod" -o 'jsonpath={.status.podIP}') && [ -n "$address" ]; do sleep 0.02; done
		echo "$address"
		;;
	exec) kubectl exec "$pod" -- "${@:3}" ;;
	checkpoint) kubectl exec "$pod" -- /opt/freeze/freeze checkpoint ;;
	remove) kubectl delete "pod/$pod" "secret/$pod" --now ;;
	esac
}
kubernetes-engine() { kubernetes node1 "$@"; }
kubernetes-2-engine() { kubernetes node2 "$@"; }

# simulated PLATFORM VERB…: the engine's verbs for a sandbox with that platform's settings and the image's files, in the
# network of a host of its own. The userland is $tree, or else this machine's.
simulated() {
	local id=$name-$1 entrypoint line environment=()
	case $2 in
	up)
		[ ! -e "$work/ready" ] || return 0
		# shellcheck source=integration/testbed/common.sh
		(HERE=$testbed && . testbed/common.sh && make_netns tb-sandbox "$(host_number sandbox)")
		# Another userland sees only what is below $TESTBED, and may have no compiler.
		cp -r sandbox "$work/"
		mkdir -p "$work/image/opt/freeze" "$work/boxes-root/cache"
		cc -O1 -static -pthread -o "$work/boxes-root/cache/shim" sandbox/shim.c
		cp -a "$(sandbox/root debian)/." "$(sandbox/root app-redis)/." "$work/image/"
		cp "$built/freeze" "$built/criu" "$work/image/opt/freeze/"
		touch "$work/ready"
		;;
	start)
		mapfile -t entrypoint < <(sed -n 's/^ENTRYPOINT //p' ../images/redis/Dockerfile | tail -n 1 | jq -r '.[]')
		while read -r line; do environment+=(--env "$line"); done < <(store_variables)
		sandboxes start --id "$id" --net host --user "$user" "${environment[@]}" "${settings[@]}" "$work/image" "${entrypoint[@]}" >/dev/null
		host sandbox
		;;
	exec) sandboxes exec "$id" "${@:3}" ;;
	checkpoint) sandboxes exec "$id" /opt/freeze/freeze checkpoint ;;
	remove) sandboxes rm "$id" ;;
	esac
}
# sandboxes WORD…: runs the sandbox command on that host.
sandboxes() {
	if [ -n "${tree:-}" ]; then
		IN=$tree:sandbox NET=tb-sandbox "$testbed/enter.sh" env FREEZE_SANDBOX_DIR="$work/boxes-$tree" "$work/sandbox/sandbox" "$@"
	else
		nsenter --net=/run/netns/tb-sandbox env FREEZE_SANDBOX_DIR="$work/boxes-here" sandbox/sandbox "$@"
	fi
}
mesos-engine() {
	local settings=(--setting mesos --env MESOS_SANDBOX=/mnt/mesos/sandbox)
	simulated mesos "$@"
}
k3s-engine() {
	local settings=(--setting restricted)
	simulated k3s "$@"
}
minishift-engine() {
	local settings=(--setting openshift-3)
	simulated minishift "$@"
}
minishift-other-os-engine() {
	local settings=(--setting openshift-3) tree=root
	simulated minishift-other-os "$@"
}
