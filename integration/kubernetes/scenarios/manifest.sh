# shellcheck shell=bash disable=SC2034,SC2154
# The manifest and the commands of docs/how-to/add-to-a-manifest.md, but for the images' names and redis' path.
how_to=../../docs/how-to/add-to-a-manifest.md
fresh
persistent manifest
observe app=redis
../page "$how_to" manifest "REGISTRY/freeze=docker.io/library/freeze:${tag[freeze]}" "redis:7=docker.io/library/redis-base:${tag[redis-base]}" \
	redis-server=/app/redis-server >"$work/manifest.yaml"
valid <"$work/manifest.yaml"
on_page=$how_to page apply "redis.yaml=$work/manifest.yaml -n redis"
ready app=redis
in_place() { on_page=$how_to page exec "redis-0=redis-0 -n redis" && answers; }
move manifest-exec in_place
# The kubelet shows the container of the pod's status, which follows the restart.
tries=20
until on_page=$how_to page logs "redis-0=redis-0 -n redis" >"$work/logs" && grep -q '^freeze: restoring generation 1 of file:/checkpoints: it is the newest$' "$work/logs"; do
	[ $((tries -= 1)) -gt 0 ] || fail "the log is another: $(cat "$work/logs")"
	sleep 1
done
deleted() { on_page=$how_to page delete "redis-0=redis-0 -n redis" && ready app=redis; }
move manifest-delete deleted
wipe
kubectl delete pv manifest
