#!/bin/bash
# swarm.sh up|down: makes one Docker Swarm of the dockerds `one` (manager) and `two` (worker), each in its own network namespace.
# up: 5 s, prints the docker command of the manager. down: leaves the swarm, the two dockerds stay up (docker.sh down NAME).
# Needs: root.sh run before. No IPVS in this kernel: services need --endpoint-mode dnsrr, ports --publish mode=host.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

docker() { "$HERE/enter.sh" docker -H "unix://$TESTBED/docker/$1/docker.sock" "${@:2}"; }
state() { docker "$1" info -f '{{.Swarm.LocalNodeState}}'; }

up() {
	"$HERE/docker.sh" up one
	"$HERE/docker.sh" up two >/dev/null
	[ "$(state one)" = active ] || docker one swarm init --advertise-addr eth0 >/dev/null
	[ "$(state two)" = active ] || docker two swarm join --token "$(docker one swarm join-token -q worker)" "10.87.0.$(host_number one):2377" >/dev/null
	wait_for 20 sh -c "[ \$($HERE/enter.sh docker -H unix://$TESTBED/docker/one/docker.sock node ls -q --filter role=worker | wc -l) = 1 ]" || die "no worker"
}
case ${1:-} in
up) up ;;
down) for n in two one; do [ "$(state $n)" != active ] || docker $n swarm leave --force; done ;;
*) die "usage: $0 up|down" ;;
esac
