# shellcheck shell=bash disable=SC2154
# A StatefulSet with its image unchanged and its store encrypted: deletes its pod, restarts it, deletes its pod by force.
fresh
page passphrase
observe app=redis
page volume
ready app=redis
! kubectl -n redis exec redis-0 -- touch /opt/freeze/freeze 2>/dev/null || fail "the service can change freeze"
fill 64

deleted() { page delete && ready app=redis; }
move delete deleted
log redis-0
kubectl -n redis exec redis-0 -- /opt/freeze/freeze list
! kubectl -n redis exec redis-0 -- env -u FREEZE_PASSPHRASE_FILE /opt/freeze/freeze list 2>/dev/null || fail "the store is not encrypted"

restarted() { kubectl -n redis rollout restart statefulset/redis && ready app=redis; }
move rollout restarted

# The kubelet gives a pod that is deleted by force 2 s. The next pod goes on from the checkpoint that the old one takes in
# that time, or else from the one before. It waits until the old pod has offered its generation or its heartbeat stopped.
echo "# force"
kubectl -n redis exec redis-0 -- /opt/freeze/freeze checkpoint --leave-running
moves=$(redis get moves)
page force
ready app=redis
log redis-0
[ "$(redis get moves)" = "$moves" ] || fail "the state was lost"
