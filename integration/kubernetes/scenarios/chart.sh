# shellcheck shell=bash disable=SC2154
# The Helm chart's two examples: a StatefulSet that hands over to its standby, and a Deployment whose pod is deleted.
# helm -n NAMESPACE install RELEASE CHART -f VALUES: does that by Helm's library, with this testbed's images and store.
helm() {
	KUBECONFIG=$TESTBED/k8s-data${CLUSTER:+-$CLUSTER}/kubeconfig HELM_NAMESPACE=$2 "$python" helm.py install "$5" "$4" "$7" "freeze.store.url=s3://freeze/$application" "${values[@]}"
}
fresh
observe app=redis
values=("image=docker.io/library/freeze-redis:${tag[freeze-redis]}")
page helm
ready role=service
kubectl -n redis exec redis-0 -- /opt/freeze/freeze checkpoint --leave-running
prepared deploy/redis-standby "$(generation)"
there() { kubectl -n redis exec redis-0 -- /opt/freeze/freeze checkpoint --handover=30s && ready role=standby; }
move chart-handover there

fresh
page passphrase
observe app=redis
values=("image=docker.io/library/redis-base:${tag[redis-base]}" "freeze.image=docker.io/library/freeze:${tag[freeze]}")
helm -n redis install redis helm/freeze -f helm/examples/deployment.yaml
ready app=redis
deleted() { kubectl -n redis delete pod "$pod" --wait=false && ready app=redis; }
move chart-delete deleted
