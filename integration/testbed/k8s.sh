#!/bin/bash
# k8s.sh build|up|down|load: a two-node Kubernetes, built from Debian bookworm's source; each node is a network namespace.
# CLUSTER=NAME: a second cluster, of one node, which shares nothing with the first; one such at a time.
#
# build takes about 5 min the first time, and 0 s later. up takes 10-18 s. down takes 4 s and removes the images.
# Needs root, apt with a Debian mirror that carries bookworm, and 3 GB of disk and memory to build.
# $kubectl is a command with arguments, so it is not quoted:
# shellcheck disable=SC2086
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

K=$TESTBED/k8s-bin

build() {
	[ ! -x "$K/kubelet" ] || return 0
	make_root k8s bookworm golang-go rsync dpkg-dev etcd-server containernetworking-plugins containerd runc \
		iptables iproute2 procps jq openssl conntrack
	local src=$TESTBED/src/kubernetes go=$TESTBED/k8s/go ver v
	ls "$src"/kubernetes_*.orig.tar.* >/dev/null 2>&1 || source_of kubernetes bookworm "$src"
	ver=$(sed -n 's/^Version: .*really\([0-9.]*\)-.*/\1/p' "$src"/kubernetes_*.dsc | sed -n 1p)
	rm -rf "$go/src/k8s.io" "${go:?}/bin"
	mkdir -p "$go/src/k8s.io"
	say "building Kubernetes $ver"
	v=k8s.io/kubernetes/vendor/k8s.io
	# shellcheck disable=SC2016
	IN=k8s "$HERE/enter.sh" env GOPATH=/go GOCACHE=/go/cache GO111MODULE=off CGO_ENABLED=0 GOFLAGS= bash -euc '
		src=$1 ver=$2 v=$3
		dpkg-source --no-check -x "$src"/kubernetes_*.dsc /go/src/k8s.io/kubernetes
		cd /go/src/k8s.io/kubernetes
		make generated_files
		x="-s -w"
		for p in component-base/version client-go/pkg/version; do
			x="$x -X $v/$p.gitVersion=v$ver -X $v/$p.gitMajor=1 -X $v/$p.gitMinor=$(echo "$ver" | cut -d. -f2)"
		done
		go install -trimpath -tags providerless,dockerless -ldflags "$x" ./cmd/kube-apiserver ./cmd/kube-controller-manager \
			./cmd/kube-scheduler ./cmd/kubelet ./cmd/kubectl
	' build "$src" "$ver" "$v" >"$LOG/k8s-build.log" 2>&1 || die "the build failed, see $LOG/k8s-build.log"
	mkdir -p "$K"
	mv "$go"/bin/* "$K/"
	chmod -R u+w "$go"
	rm -rf "$go"
	"$K/kubelet" --version >&2
}

if [ -z "${CLUSTER:-}" ]; then
	D=$TESTBED/k8s-data cp=cp nodes=(node1 node2) first=20
else
	D=$TESTBED/k8s-data-$CLUSTER cp=$CLUSTER-cp nodes=("$CLUSTER-node1") first=30
fi
CP=10.87.0.$first
kubectl="$K/kubectl --kubeconfig $D/kubeconfig"

# on NAME CMD…: runs a command in that node's network and mounts (its /run, /tmp, /var/log and /var/lib).
on() { IN=k8s:$1 NET=tb-$1 "$HERE/enter.sh" "${@:2}"; }
daemon() {
	local node=$1 name=$2
	IN=k8s:$node NET=tb-$node start "k8s-$node-${name##*/}" "$HERE/enter.sh" "${@:2}"
}

# host NAME NUMBER: makes a host of the cluster, with state of its own.
host() {
	make_netns "tb-$1" "$2"
	mkdir -p "$D/$1"/{log,kubelet,containerd,etcd}
	# shellcheck disable=SC2016
	on "$1" sh -euc 'mountpoint -q /var/log && exit
		for v in log lib/kubelet lib/containerd lib/etcd; do mkdir -p /var/$v; mount --bind "$1/${v#lib/}" /var/$v; done
		mount --make-rshared /' sh "$D/$1"
}

control_plane() {
	host "$cp" "$first"
	[ -e "$D/sa.key" ] || openssl genrsa -out "$D/sa.key" 2048 2>/dev/null
	echo 'testbed-token,admin,admin,system:masters' >"$D/tokens.csv"
	cat >"$D/kubeconfig" <<-END
		{"apiVersion": "v1", "kind": "Config", "current-context": "testbed",
		 "clusters": [{"name": "testbed", "cluster": {"server": "https://$CP:6443", "insecure-skip-tls-verify": true}}],
		 "users": [{"name": "admin", "user": {"token": "testbed-token"}}],
		 "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin"}}]}
	END
	daemon "$cp" etcd --data-dir /var/lib/etcd --unsafe-no-fsync --log-level error
	daemon "$cp" "$K/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --advertise-address "$CP" --cert-dir /run/apiserver \
		--token-auth-file "$D/tokens.csv" --authorization-mode Node,RBAC --service-cluster-ip-range 10.96.0.0/16 \
		--service-account-issuer https://testbed --service-account-key-file "$D/sa.key" \
		--service-account-signing-key-file "$D/sa.key" --allow-privileged=true --kubelet-preferred-address-types InternalIP
	wait_for 60 $kubectl get --raw /readyz || die "no API server, see $LOG/k8s-$cp-kube-apiserver.log"
	daemon "$cp" "$K/kube-controller-manager" --kubeconfig "$D/kubeconfig" --service-account-private-key-file "$D/sa.key" \
		--use-service-account-credentials --leader-elect=false --node-monitor-grace-period 20s --pod-eviction-timeout 20s
	daemon "$cp" "$K/kube-scheduler" --kubeconfig "$D/kubeconfig" --leader-elect=false
}

# node NAME NUMBER: starts a node: containerd and kubelet.
node() {
	local d=$D/$1 cgroup
	host "$1" "$2"
	mkdir -p "$d/cni"
	for cgroup in /sys/fs/cgroup/*/; do mkdir -p "$cgroup/tb-$1"; done
	for f in cpus mems; do cat /sys/fs/cgroup/cpuset/cpuset.$f >"/sys/fs/cgroup/cpuset/tb-$1/cpuset.$f"; done
	cat >"$d/cni/10-bridge.conflist" <<-END
		{"cniVersion": "0.4.0", "name": "pods", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.89.$2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
	cat >"$d/containerd.toml" <<-END
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "docker.io/library/pause:testbed"
		  restrict_oom_score_adj = true
		  disable_hugetlb_controller = true
		  tolerate_missing_hugetlb_controller = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$d/cni"
	END
	cat >"$d/kubelet.json" <<-END
		{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		 "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}}, "authorization": {"mode": "AlwaysAllow"},
		 "cgroupDriver": "cgroupfs", "cgroupRoot": "/tb-$1", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
		 "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%"}, "imageGCHighThresholdPercent": 100,
		 "failSwapOn": false, "nodeStatusUpdateFrequency": "2s", "syncFrequency": "5s", "resolvConf": "/etc/resolv.conf"}
	END
	daemon "$1" containerd --config "$d/containerd.toml"
	wait_for 20 on "$1" ctr version || die "no containerd, see $LOG/k8s-$1-containerd.log"
	on "$1" ctr -n k8s.io images ls -q | grep -q pause:testbed || on "$1" ctr -n k8s.io images import "$D/pause.tar" >/dev/null
	daemon "$1" "$K/kubelet" --hostname-override "$1" --node-ip "10.87.0.$2" --kubeconfig "$D/kubeconfig" --config "$d/kubelet.json" \
		--container-runtime remote --container-runtime-endpoint unix:///run/containerd/containerd.sock --oom-score-adj 0
}

# pause_image: makes an archive of an image with one static program that sleeps.
pause_image() {
	[ ! -e "$D/pause.tar" ] || return 0
	local t
	t=$(mktemp -d "$TESTBED/pause.XXXXXX")
	cp "$TESTBED/root/usr/bin/busybox" "$t/"
	printf 'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox","sleep","1000000000"]\n' >"$t/Dockerfile"
	"$HERE/podman.sh" build -q -t docker.io/library/pause:testbed "$t" >/dev/null
	"$HERE/podman.sh" save -q -o "$D/pause.tar" docker.io/library/pause:testbed
	rm -rf "$t"
}

sysctls="vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"
up() {
	build
	mkdir -p "$D"
	# The kubelet sets these for the whole machine; `down` restores them.
	# shellcheck disable=SC2086
	[ -e "$D/sysctls" ] || sysctl $sysctls >"$D/sysctls"
	pause_image
	control_plane
	local n number=$first from to
	for n in "${nodes[@]}"; do node "$n" $((number += 1)); done
	for from in "${!nodes[@]}"; do
		for to in "${!nodes[@]}"; do
			[ "$from" = "$to" ] || ip -n "tb-${nodes[from]}" route replace "10.89.$((first + 1 + to)).0/24" via "10.87.0.$((first + 1 + to))"
		done
	done
	wait_for 60 sh -c "[ \$($kubectl get nodes --no-headers | grep -cw Ready) = ${#nodes[@]} ]" || die "the nodes are not ready, see $LOG/k8s-*"
	wait_for 30 $kubectl get serviceaccount default || die "no service account, see $LOG/k8s-$cp-kube-controller-manager.log"
	echo "$kubectl"
}

down() {
	local n id p
	if [ -e "$D/kubeconfig" ] && alive k8s-$cp-kube-apiserver; then
		$kubectl delete pods,deployments,statefulsets,jobs --all --all-namespaces --force --grace-period 0 --timeout 20s >/dev/null 2>&1 || true
	fi
	for n in "${nodes[@]}"; do
		stop "k8s-$n-kubelet"
		if alive "k8s-$n-containerd"; then
			for id in $(on "$n" ctr -n k8s.io tasks ls -q); do on "$n" ctr -n k8s.io tasks kill -s KILL "$id" || true; done
			sleep 1
			for id in $(on "$n" ctr -n k8s.io containers ls -q); do
				on "$n" ctr -n k8s.io tasks rm -f "$id" >/dev/null 2>&1 || true
				on "$n" ctr -n k8s.io containers rm "$id" >/dev/null 2>&1 || true
			done
		fi
		stop "k8s-$n-containerd"
	done
	for p in kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "k8s-$cp-$p"; done
	for n in "${nodes[@]}" "$cp"; do
		umount "$RUN/ns/k8s:$n" 2>/dev/null || true
		drop_netns "tb-$n"
		find /sys/fs/cgroup/*/"tb-$n" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	[ ! -e "$D/sysctls" ] || sysctl -q -p "$D/sysctls" || true
	for n in sysctls "${nodes[@]}" "$cp"; do rm -rf "${D:?}/$n"; done
}

case ${1:-} in
build) build ;;
up)
	# Two calls at once would read each other's half-written settings.
	[ -n "${LOCKED:-}" ] || LOCKED=1 exec flock -o "$RUN/k8s.lock" "$0" up
	up
	;;
down) down ;;
load) for n in "${nodes[@]}"; do on "$n" ctr -n k8s.io images import "$2"; done ;;
*) die "usage: $0 build|up|down|load ARCHIVE" ;;
esac
