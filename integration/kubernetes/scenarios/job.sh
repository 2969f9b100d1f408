# shellcheck shell=bash disable=SC2154,SC2034
# A Job of 400 steps that counts in memory: a drain evicts it, then an exec checkpoints it. Each step must be done once.
# steps NUMBER: waits until the pod has done that many steps.
steps() { until [ "$(cluster_kubectl -n redis logs "$pod" 2>/dev/null | grep -c '^step')" -ge "$1" ]; do sleep 0.2; done; }
# running: waits for the Job's running pod other than $pod.
running() {
	local not=$pod
	until pod=$(cluster_kubectl -n redis get pods -l app=steps -o json | jq -er --arg not "$not" '[.items[] | select(.metadata.name != $not and .status.phase == "Running" and .metadata.deletionTimestamp == null)][0].metadata.name'); do
		sleep 0.1
	done
}
# follow NUMBER: keeps what the pod's container logs until it ends.
follow() {
	cluster_kubectl -n redis logs -f "$pod" >"$work/steps-$1" &
	follow=$!
}
fresh
pod=''
page job
running
steps 20
follow 1
first=$(kubectl -n redis get pod "$pod" -o jsonpath='{.spec.nodeName}')
# In the background: the drain ends when the old pod is removed, and the next one may be done by then.
page drain "NODE=$first" &
drain=$!
wait "$follow" || true
running
follow 2
steps 20
page job-exec
wait "$follow" || true
page job-wait
wait "$drain"
kubectl uncordon "$first"
cluster_kubectl -n redis logs "$pod" >"$work/steps-3"
grep -h '^freeze: ' "$work"/steps-[123]
wc -l "$work"/steps-[123]
cat "$work"/steps-[123] | grep '^step' | cmp - <(seq -f 'step %.0f' 400) || fail "a step was lost or done again"
kubectl -n redis get job steps -o json | jq -c .status

echo "# FREEZE_CHECKPOINTED_STATUS=0: the eviction counts as success, and the Job as complete, in the middle of its work"
tweak='patches:
- target: {kind: Job}
  patch: |
    - {op: add, path: /spec/template/spec/containers/0/env/-, value: {name: FREEZE_CHECKPOINTED_STATUS, value: "0"}}'
fresh
pod=''
page job
tweak=
running
steps 20
follow 1
kubectl -n redis delete pod "$pod"
wait "$follow" || true
kubectl -n redis wait --for=condition=complete job/steps --timeout=30s
! grep -qx "step 400" "$work/steps-1" || fail "the Job was done before it was evicted"
