# shellcheck shell=bash disable=SC2154,SC2016
# The manifest of the project's README, applied as it is but for the images' names and redis' path. No volume is provisioned here: a folder that both
# nodes see is the claim's PersistentVolume.
fresh
volume=$work/volume
rm -rf "$volume"
install -d -o 1000 -g 1000 "$volume"
kubectl delete pv readme --ignore-not-found >/dev/null
kubectl apply -f - <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: readme}
spec: {capacity: {storage: 2Gi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, hostPath: {path: $volume}}
END
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
