# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# cluster.sh: a cluster, and a client that counts while redis moves in it. Everything is in the namespace `redis`.
# `test` sources it after lib.sh.
reports=()
jobs=()

# kubectl WORD…: the pages' `kubectl`, for this cluster or for the one of --context. Rendered manifests get this testbed's
# images, and a drain touches only this test's pods.
kubectl() {
	if [ "$1" = --context ]; then
		local CLUSTER=${2/core/}
		shift 2
	fi
	case $1 in
	kustomize) here "$2" | kustomize_stdin ;;
	drain) cluster_kubectl "$@" --pod-selector "app in (redis,steps)" ;;
	*) cluster_kubectl "$@" ;;
	esac
}
cluster_kubectl() { "$TESTBED/k8s-bin/kubectl" --kubeconfig "$TESTBED/k8s-data${CLUSTER:+-$CLUSTER}/kubeconfig" "$@"; }
kustomize_stdin() {
	mkdir -p "$work/kustomize/here"
	cat >"$work/kustomize/here/kustomization.yaml"
	kustomize kustomize/here
}
# here FOLDER: prints a kustomization of that folder with this testbed's images and with $tweak.
tweak=
here() {
	cat <<-END
		resources: [../${1#kustomize/}]
		images:
		- {name: REGISTRY/freeze, newName: docker.io/library/freeze, newTag: "${tag[freeze]}"}
		- {name: REGISTRY/redis, newName: docker.io/library/redis-base, newTag: "${tag[redis-base]}"}
		- {name: REGISTRY/freeze-redis, newName: docker.io/library/freeze-redis, newTag: "${tag[freeze-redis]}"}
		$tweak
	END
}
# page ID [WORD=VALUE…]: runs that block of the page $on_page.
on_page=README.md
page() {
	local commands
	commands=$(../page "$on_page" "$@")
	printf '    %s\n' "${commands//$'\n'/$'\n'    }"
	eval "$commands"
}

# images: copies the images of dockerd `one` to the nodes, with a tag made from their content; sets tag[NAME].
declare -A tag
images() {
	local name id
	for name in freeze redis-base freeze-redis; do
		id=$(docker image inspect -f '{{.Id}}' "$name") || fail "run integration/docker/test first: it makes the images"
		tag[$name]=${id:7:12}
		! has "docker.io/library/$name:${tag[$name]}" || continue
		docker tag "$name" "$name:${tag[$name]}"
		"$testbed/image.sh" copy "$name:${tag[$name]}" k8s >/dev/null
	done
}
# has IMAGE: whether each node has it.
has() {
	local node
	for node in $(cluster_kubectl get nodes -o 'jsonpath={.items[*].metadata.name}'); do
		IN=k8s:$node NET=tb-$node "$testbed/enter.sh" ctr -n k8s.io images ls -q "name==$1" | grep . >/dev/null || return
	done
}
docker() { "$testbed/enter.sh" docker -H "unix://$TESTBED/docker/one/docker.sock" "$@"; }

# fresh: makes an empty namespace, and a store of its own.
fresh() {
	quiet
	application=kubernetes-$RANDOM$RANDOM uid=none address='' memory=1
	rm -f "$work"/{boxes,events,seen}
	: >"$work/boxes"
	empty
}
# persistent NAME: makes a PersistentVolume, an empty folder that both nodes see, because nothing provisions volumes here.
persistent() {
	rm -rf "$work/volume"
	install -d -o 1000 -g 1000 "$work/volume"
	kubectl delete pv "$1" --ignore-not-found >/dev/null
	kubectl apply -f - <<-END
		apiVersion: v1
		kind: PersistentVolume
		metadata: {name: $1}
		spec: {capacity: {storage: 2Gi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, hostPath: {path: $work/volume}}
	END
}
# wipe: removes the namespace, without waiting for pods to end.
wipe() {
	cluster_kubectl -n redis delete statefulsets,deployments,jobs --all >/dev/null 2>&1 || true
	cluster_kubectl -n redis delete pods --all --force --grace-period 0 >/dev/null 2>&1 || true
	cluster_kubectl delete namespace redis --ignore-not-found >/dev/null 2>&1
}
# empty: makes an empty namespace in $CLUSTER.
empty() {
	wipe
	store_env >"$work/store.env"
	page secret "store.env=$work/store.env" >/dev/null
}
store_env() {
	printf '%s\n' "FREEZE_STORE=s3://freeze/$application" "AWS_ENDPOINT_URL=${store_url:-$AWS_ENDPOINT_URL}" "AWS_REGION=$AWS_REGION" \
		"AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
}

# beside COMMAND…: runs it in the background, until `quiet` or the end.
beside() {
	"$@" &
	jobs+=($!)
}
quiet() {
	[ ${#jobs[@]} = 0 ] || kill "${jobs[@]}" 2>/dev/null || true
	jobs=()
}
# observe SELECTOR: gives the client the address of each such pod, as a Service would.
observe() {
	beside python3 downtime.py watch "$work/boxes" "$work/events" "$TESTBED/k8s-bin/kubectl" --kubeconfig "$TESTBED/k8s-data${CLUSTER:+-$CLUSTER}/kubeconfig" \
		-n redis get pods -l "$1" --watch --output json --output-watch-events
}

# ready SELECTOR: waits for a ready pod other than $uid; sets pod, uid, node, address.
ready() {
	local line deadline=$((SECONDS + 180))
	until line=$(cluster_kubectl -n redis get pods -l "$1" -o json | jq -er --arg not "$uid" '[.items[] | select(.metadata.uid != $not and .metadata.deletionTimestamp == null)
			| select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))][0] // empty
			| [.metadata.name, .metadata.uid, .spec.nodeName, .status.podIP] | @tsv'); do
		[ $SECONDS -lt $deadline ] || { cluster_kubectl -n redis get pods -o wide >&2 && fail "no pod became ready"; }
		sleep 0.05
	done
	IFS=$'\t' read -r pod uid node address <<<"$line"
}
# redis COMMAND…: asks redis in the pod that `ready` found last.
redis() {
	local answer
	exec 3<>"/dev/tcp/$address/6379"
	printf '%s\r\n' "$*" >&3
	read -r answer <&3
	# redis sends a string's length before the string.
	[[ $answer != \$* ]] || read -r answer <&3
	exec 3>&-
	echo "${answer//[:$'\r']/}"
}
# generation: prints the newest generation that the pod which `ready` found last has restored or committed.
# prepared POD GENERATION: waits until the pod stands by, prepared for that generation.
generation() { cluster_kubectl -n redis exec "$pod" -- /opt/freeze/freeze status --json | jq .generation; }
prepared() {
	until cluster_kubectl -n redis exec "$1" -- /opt/freeze/freeze status --json 2>/dev/null |
		jq -e --argjson wanted "$2" '.state == "standby" and .generation == $wanted' >/dev/null; do
		sleep 0.5
	done
}
# log POD…: prints freeze's lines of its log.
log() { cluster_kubectl -n redis logs "$@" | grep '^freeze: '; }

# fill MIB: puts MIB into redis, of which a fourteenth does not compress.
fill() {
	kubectl -n redis exec "$pod" -c app -- /app/redis-cli eval 'local random = {} for i = 1, 131072 do random[i] = string.char(math.random(0, 255), math.random(0, 255)) end
		random = table.concat(random)
		for i = 1, tonumber(ARGV[1]) do
			local at = math.random(1, #random - 330)
			redis.call("set", "key:" .. i, i .. string.sub(random, at, at + 330) .. string.rep("freeze ", 90))
		end' 0 $(($1 * 1024)) >/dev/null
	memory=$1
}
# answers: waits until redis answers at the same address again, after its container was restarted.
answers() {
	echo "$address" >"$work/last"
	python3 ../demo/client.py wait "$work/last" 6379
}

# move NAME COMMAND…: runs the command, which returns when the service is back, while a client counts. Fails if redis has
# lost state, or if an answer was lost or doubled.
memory=1
move() {
	local name=$1 moves client
	shift
	echo "# $name"
	redis del counter >/dev/null
	moves=$(redis incr moves)
	rm -f "$work/seen"
	python3 ../demo/client.py count "$work/boxes" 6379 "$work/seen" &
	client=$!
	jobs+=("$client")
	until [ -s "$work/seen" ]; do sleep 0.05; done
	"$@"
	sleep 0.3
	kill -INT "$client"
	wait "$client"
	[ "$(redis incr moves)" = $((moves + 1)) ] || fail "$name: the state was lost"
	jq -e '.lost + .doubled == 0' "$work/seen" >/dev/null || fail "$name: answers were lost or doubled: $(cat "$work/seen")"
	jq --argjson memory "$memory" '.memory_mib = $memory' "$work/seen" >"$work/seen-$name"
	reports+=("$name=$work/seen-$name")
}
