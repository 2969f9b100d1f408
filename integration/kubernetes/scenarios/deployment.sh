# shellcheck shell=bash disable=SC2154
# A Deployment, whose next pod starts while the last one still checkpoints: deletes its pod, drains its node, and changes
# its template.
fresh
observe app=redis
page deployment
ready app=redis
fill 64

deleted() { kubectl -n redis delete pod "$pod" --wait=false && ready app=redis; }
move deployment-delete deleted
log "$pod"

first=$node
drained() { page drain "NODE=$node" && ready app=redis; }
move deployment-drain drained
kubectl uncordon "$first"

restarted() { page rollout && ready app=redis; }
move deployment-rollout restarted
kubectl -n redis patch deployment redis --type merge -p '{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}'
move deployment-recreate restarted
log "$pod"

# A second replica waits all the time.
kubectl -n redis scale deployment redis --replicas=2
until second=$(cluster_kubectl -n redis get pods -l app=redis -o json |
	jq -er --arg not "$pod" '[.items[] | select(.metadata.name != $not and .metadata.deletionTimestamp == null)][0].metadata.name'); do
	sleep 0.1
done
prepared "$second" "$(generation)"
move deployment-second-replica deleted
log "$pod"
