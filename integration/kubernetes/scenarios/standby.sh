# shellcheck shell=bash disable=SC2154
# A second Deployment as a standby: `freeze checkpoint --handover` there and back.
fresh
observe app=redis
page deployment
ready app=redis
fill 64
page standby
page prepare
prepared deploy/redis-standby "$(generation)"

there() { page handover && ready role=standby; }
move handover there
log "$pod"

# The container that handed over was started again, and has become a standby.
prepared deploy/redis "$(generation)"
back() { page handover-back && ready role=service; }
move handover-back back
