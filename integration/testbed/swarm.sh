#!/bin/bash
# swarm.sh up|down [MANAGER WORKER]: makes a Docker Swarm of two dockerds (`one` and `two` unless named), each in its own
# network namespace.
#
# up takes 5 s. down leaves the swarm; the two dockerds stay up (docker.sh down NAME). Run root.sh before.
# This kernel has no IPVS: services need --endpoint-mode dnsrr, ports need --publish mode=host.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

manager=${2:-one} worker=${3:-two}
docker() { "$HERE/enter.sh" docker -H "unix://$TESTBED/docker/$1/docker.sock" "${@:2}"; }
state() { docker "$1" info -f '{{.Swarm.LocalNodeState}}'; }
ready() { [ "$(docker "$manager" node ls -q --filter role=worker | wc -l)" = 1 ]; }

up() {
	"$HERE/docker.sh" up "$manager" >/dev/null
	"$HERE/docker.sh" up "$worker" >/dev/null
	[ "$(state "$manager")" = active ] || docker "$manager" swarm init --advertise-addr eth0 >/dev/null
	[ "$(state "$worker")" = active ] ||
		docker "$worker" swarm join --token "$(docker "$manager" swarm join-token -q worker)" "10.87.0.$(host_number "$manager"):2377" >/dev/null
	wait_for 20 ready || die "no worker"
}
case ${1:-} in
up) up ;;
down) for n in "$worker" "$manager"; do [ "$(state "$n")" != active ] || docker "$n" swarm leave --force; done ;;
*) die "usage: $0 up|down [MANAGER WORKER]" ;;
esac
