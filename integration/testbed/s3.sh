#!/bin/bash
# s3.sh up|env|down|wipe: starts or stops a SeaweedFS with a bucket `freeze`, which containers of all engines reach.
# up and env print the AWS_… lines to eval.
#
# up takes 4 s once SeaweedFS is installed. down takes 5 s and keeps the data; wipe removes the data too.
# Needs root, and what integration/s3/server needs.
set -euo pipefail
# shellcheck source=integration/testbed/common.sh
. "$(dirname "$0")/common.sh"

d=$TESTBED/s3
ip=10.87.0.10

env_lines() {
	cat <<-END2
		export AWS_ENDPOINT_URL=http://$ip:8333
		export AWS_ACCESS_KEY_ID=freezekey
		export AWS_SECRET_ACCESS_KEY=freezesecret
		export AWS_REGION=us-east-1
	END2
}
# bucket WORD…: sends a signed request by curl.
bucket() {
	curl -sf --max-time 10 -o /dev/null --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}
up() {
	local weed
	weed=$("$HERE/../s3/server" install)
	mkdir -p "$d/data"
	if ! alive s3; then
		make_netns tb-s3 10
		cat >"$d/s3.json" <<-'END2'
			{"identities": [{"name": "freeze", "credentials": [{"accessKey": "freezekey", "secretKey": "freezesecret"}],
			  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
		END2
		start s3 ip netns exec tb-s3 "$weed" -logtostderr=true server -dir="$d/data" -ip="$ip" -ip.bind=0.0.0.0 \
			-s3 -s3.port=8333 -s3.config="$d/s3.json" -master.volumeSizeLimitMB=1024 -volume.max=20 -volume.preStopSeconds=1
	fi
	eval "$(env_lines)"
	wait_for 30 curl -s -o /dev/null "$AWS_ENDPOINT_URL" || die "no answer, see $LOG/s3.log"
	bucket -X PUT "$AWS_ENDPOINT_URL/freeze" || true # it may exist already
	wait_for 30 bucket -X PUT -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -d ready "$AWS_ENDPOINT_URL/freeze/ready" ||
		die "no bucket, see $LOG/s3.log"
	env_lines
}
case ${1:-} in
up) up ;;
env) env_lines ;;
down) stop s3 5 && drop_netns tb-s3 ;;
wipe) stop s3 5 && drop_netns tb-s3 && rm -rf "$d/data" ;;
*) die "usage: $0 up|env|down|wipe" ;;
esac
