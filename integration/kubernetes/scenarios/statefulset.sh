# shellcheck shell=bash disable=SC2154,SC2034
# A StatefulSet with 256 MiB: drains its node, and prints where the time went; then `kubectl exec … freeze checkpoint`.
store_url=http://10.87.0.1:18333
fresh
unset store_url
rm -f "$work/wire"
beside python3 downtime.py wire 18333 10.87.0.10:8333 "$work/wire"
observe app=redis
page statefulset
ready app=redis
fill 256
keys=$(redis dbsize)
cluster_kubectl -n redis logs -f --timestamps redis-0 >"$work/old.log" &
cluster_kubectl -n redis exec redis-0 -- /opt/freeze/freeze status --follow --json 2>/dev/null | python3 downtime.py stamp >"$work/old.status" &
old=$uid first=$node

drained() { page drain "NODE=$node" && ready app=redis; }
move drain drained
[ "$node" != "$first" ] || fail "the pod came up on the same node"
kubectl uncordon "$first"
cluster_kubectl -n redis logs --timestamps redis-0 >"$work/new.log"
cluster_kubectl -n redis exec redis-0 -- /opt/freeze/freeze status --json >"$work/new.status"
grep -h 'freeze: ' "$work/old.log" "$work/new.log"
python3 downtime.py report "$work" "$old" "$uid"

in_place() { page exec && answers; }
move exec in_place
[ "$(redis dbsize)" = $((keys + 2)) ] || fail "keys were lost"
