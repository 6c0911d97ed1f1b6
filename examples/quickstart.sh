#!/usr/bin/env bash
# From nothing to a revoked key with curl alone, against the server at $1 whose admin key is in the file $2.
#
#   examples/quickstart.sh http://127.0.0.1:8000 var/admin.key docs/example.png
set -euo pipefail
url=${1%/} admin_key=$2 image=$3
predict="$url/v1/models/cifar10/predict"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
top() { python3 -c 'import json, sys; a = json.load(sys.stdin); print(a["tier"], a["predictions"][0]["label"])'; }
# Credentials are headers in files of our own: what is on a command line can be read by every user of the machine.
umask 077
printf 'Authorization: Bearer %s' "$(cat "$admin_key")" >"$work/admin"

echo "everybody gets: $(curl -sf --data-binary @"$image" "$predict" | top)"

curl -sf "$url/admin/v1/keys" -H @"$work/admin" -H 'Content-Type: application/json' \
    -d '{"name": "quickstart", "scopes": ["distill"], "budget": {"limit": 10}}' >"$work/key.json"
id=$(field id <"$work/key.json")
printf 'Authorization: Bearer %s' "$(field api_key <"$work/key.json")" >"$work/partner"
echo "the holder of a key gets: $(curl -sf -H @"$work/partner" --data-binary @"$image" "$predict" | top)"
echo "of its budget is left: $(curl -sf -H @"$work/partner" "$url/v1/keys/self" | field budget)"

curl -sf -X POST "$url/admin/v1/keys/$id/revoke" -H @"$work/admin" >/dev/null
echo "revoked, it is answered $(curl -s -o /dev/null -w '%{http_code}' -H @"$work/partner" "$url/v1/keys/self")"
