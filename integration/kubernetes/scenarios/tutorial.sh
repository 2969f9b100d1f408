# shellcheck shell=bash disable=SC2154,SC2317
# The second tutorial: its commands, with a kubectl of this year, print what the page shows. tests/docs/redis-image stands in for `redis:7`.
fresh
../../tests/docs/redis-image one
has docker.io/library/redis:7 || "$testbed/image.sh" copy redis:7 k8s >/dev/null
persistent tutorial
(
	integration=$(cd .. && pwd) tutorial=$(cd ../.. && pwd)/docs/tutorial/kubernetes.md
	kubectl() { "$integration/testbed/enter.sh" kubectl --kubeconfig "$TESTBED/k8s-data/kubeconfig" -n redis "$@"; }
	mkdir -p "$work/tutorial"
	cd "$work/tutorial" || exit
	"$integration/page" "$tutorial" manifest REGISTRY/freeze="docker.io/library/freeze:${tag[freeze]}" >redis.yaml
	for block in apply write drain read delete; do
		echo "# $block"
		commands=$("$integration/page" "$tutorial" "$block")
		eval "$commands" >printed 2>&1 || { cat printed >&2 && exit 1; }
		# A reader's namespace is `default`; which node has the pod is the scheduler's choice. A slow controller adds a line.
		sed '/^Waiting for statefulset spec update/d; s,redis/redis-0,default/redis-0,; s/from redis namespace/from default namespace/; s,node/node2,node/node1,' printed |
			"$integration/printed" "$tutorial" "$block"
	done
)
valid <"$work/tutorial/redis.yaml"
wipe
cluster_kubectl delete pv tutorial
