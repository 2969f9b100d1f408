# shellcheck shell=bash disable=SC2154,SC2016
# The manifest of the project's README, applied as it is but for the images' names and redis' path.
fresh
persistent readme
observe app=redis
sed -n '/^## Into a Kubernetes manifest/,/^```$/p' ../../README.md | sed '1,/^```yaml$/d;/^```$/d' |
	sed "s|REGISTRY/freeze|docker.io/library/freeze:${tag[freeze]}|; s|redis:7|docker.io/library/redis-base:${tag[redis-base]}|; s|redis-server|/app/redis-server|" >"$work/readme.yaml"
valid <"$work/readme.yaml"
kubectl -n redis apply -f "$work/readme.yaml"
ready app=redis
in_place() { on_page=../../README.md page readme-exec "redis-0=redis-0 -n redis" && answers; }
move readme-exec in_place
deleted() { page delete && ready app=redis; }
move readme-delete deleted
log redis-0
wipe
kubectl delete pv readme
