# shellcheck shell=bash
# lib.sh: what the tests beside it share. They source it with this folder as the working folder.
testbed=../testbed
TESTBED=${TESTBED:-/var/tmp/freeze-testbed}
work=$TESTBED/work/kubernetes${CLUSTER:+-$CLUSTER}
python=$(./python)

fail() { echo "test: $*" >&2 && exit 1; }

# kustomization: copies the folder `kustomize` to where the tree sees it, and installs a current kubectl there. The
# Kustomize in the cluster's own kubectl has no components.
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
