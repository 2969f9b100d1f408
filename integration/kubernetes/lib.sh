# shellcheck shell=bash
# lib.sh: what the tests beside it share; sourced by them, in this folder.
testbed=../testbed
TESTBED=${TESTBED:-/var/tmp/freeze-testbed}
work=$TESTBED/work/kubernetes${CLUSTER:+-$CLUSTER}
python=$(./python)

fail() { echo "test: $*" >&2 && exit 1; }

# kustomization: brings the folder `kustomize` and a kubectl of this year to where both can be used. The cluster's own has a Kustomize without components.
kustomization() {
	# shellcheck disable=SC2016
	"$testbed/enter.sh" sh -c 'command -v kubectl >/dev/null || { apt-get -qq update && apt-get -qq install -y kubectl; }' >"$TESTBED/log/kubectl.log" 2>&1 ||
		fail "kubectl was not installed, see $TESTBED/log/kubectl.log"
	rm -rf "$work/kustomize"
	mkdir -p "$work"
	cp -r kustomize "$work/"
}
kustomize() { "$testbed/enter.sh" kubectl kustomize "$work/$1"; }
helm() { "$python" helm.py "$@"; }
valid() { "$python" check.py; }
