# shellcheck shell=bash disable=SC2154
# Two clusters that share only the bucket, with a Deployment in the first and its standby in the second: handover there
# and back.
CLUSTER=edge "$testbed/k8s.sh" up >/dev/null
CLUSTER=edge images
fresh
CLUSTER=edge empty
observe app=redis
CLUSTER=edge observe app=redis
page deployment
ready app=redis
fill 64
page clusters-standby
page prepare
CLUSTER=edge prepared deploy/redis-standby "$(generation)"

there() { page clusters-handover && CLUSTER=edge ready app=redis; }
move clusters-handover there
CLUSTER=edge log "$pod"

prepared deploy/redis "$(CLUSTER=edge generation)"
back() { page clusters-back && ready app=redis; }
move clusters-back back
quiet
CLUSTER=edge "$testbed/k8s.sh" down
