# shellcheck shell=bash disable=SC2154,SC2016
# Probes of each kind: each pod is ready, is checkpointed in place, and is ready again. Prints how many PIDs each probe
# takes in 20 s.
# probed NAME PROBES COMMAND: makes a pod with those probes, and a store of its own.
probed() {
	kubectl -n redis apply -f - <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: $1, labels: {app: redis}}
		spec:
		  automountServiceAccountToken: false
		  enableServiceLinks: false
		  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
		  containers:
		  - name: app
		    image: docker.io/library/freeze-redis:${tag[freeze-redis]}
		    command: [/opt/freeze/freeze, run, --, $3]
		    envFrom: [{secretRef: {name: freeze-store}}]
		    env:
		    - {name: STORE, valueFrom: {secretKeyRef: {name: freeze-store, key: FREEZE_STORE}}}
		    - {name: FREEZE_STORE, value: \$(STORE)/$1}
		    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
		    $2
	END
}
# last_pid POD: prints the newest PID of its namespace.
last_pid() { cluster_kubectl -n redis exec "$1" -- cat /proc/sys/kernel/ns_last_pid; }

redis_server='/app/redis-server, --save, "", --appendonly, "no", --protected-mode, "no"'
http_server='perl, -MIO::Socket::INET, -e, "$s = IO::Socket::INET->new(LocalPort => 6379, Listen => 9, ReuseAddr => 1) or die; while ($c = $s->accept or 1) { $c or next; while (<$c>) { last if /^\\r?$/ } print $c qq(HTTP/1.0 200 OK\\r\\n\\r\\n); close $c }"'
ready_exec='exec: {command: [/opt/freeze/freeze, status, --ready]}, periodSeconds: 1'

fresh
probed tcp "readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}" "$redis_server"
probed http "readinessProbe: {httpGet: {port: 6379}, periodSeconds: 1}" "$http_server"
probed startup "startupProbe: {tcpSocket: {port: 6379}, periodSeconds: 1, failureThreshold: 60}" "$redis_server"
probed exec "readinessProbe: {$ready_exec}" "$redis_server"
pods=(tcp http startup exec)
kubectl -n redis wait --for=condition=Ready --timeout=60s "${pods[@]/#/pod/}"

on_page=../../docs/how-to/probes-and-metrics.md page pids "POD=tcp -n redis"
declare -A own before
for pod in "${pods[@]}"; do before[$pod]=$(last_pid "$pod") && own[$pod]=$(($(last_pid "$pod") - before[$pod])); done
sleep 20
for pod in "${pods[@]}"; do echo "$pod: $(($(last_pid "$pod") - before[$pod] - 2 * own[$pod])) PIDs in 20 s; an exec of mine takes ${own[$pod]}"; done

for pod in "${pods[@]}"; do
	kubectl -n redis exec "$pod" -- /opt/freeze/freeze checkpoint
	# The kubelet needs a moment to see that the container has ended.
	until [ "$(kubectl -n redis get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].restartCount}')" != 0 ]; do sleep 0.1; done
done
kubectl -n redis wait --for=condition=Ready --timeout=60s "${pods[@]/#/pod/}"
for pod in "${pods[@]}"; do
	[ "$(kubectl -n redis exec "$pod" -- /opt/freeze/freeze status --json | jq .restore.generation)" = 1 ] || fail "$pod was not restored"
done
kubectl -n redis get pods
