#!/usr/bin/env bash
# Publishes each line of standard input as an event, for everyone or for a topic:
#
#     printf 'first\nsecond\n' | CARILLON_TOKEN=… examples/curl/publish.sh [TOPIC]
set -euo pipefail
: "${CARILLON_TOKEN:?must be a token with the scope publish}"
server=${CARILLON_SERVER:-http://127.0.0.1:8080}

# The text as a JSON string. What a terminal cannot type is left out rather than written wrongly.
quoted() {
  local text=${1//[[:cntrl:]]/ }
  text=${text//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

if [ $# -gt 0 ]; then to="{\"topic\": $(quoted "$1")}"; else to='"everyone"'; fi

while IFS= read -r line; do
  # If no answer comes, nobody knows whether the event is published. With the same key it is safe to ask again: the
  # second time gives the first event. So one key for each event, and all attempts at it.
  key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  # --retry asks again after 408, 429 and 5xx, as long as Retry-After says, and --retry-connrefused when nobody listens
  # there for a moment. A connection that broke (52, 56) it does not count as passing, so the loop does.
  until curl --silent --show-error --fail --output /dev/null \
    --retry 30 --retry-delay 1 --retry-max-time 60 --retry-connrefused \
    --header "Authorization: Bearer $CARILLON_TOKEN" --header "Idempotency-Key: $key" \
    --data "{\"type\": \"note\", \"to\": $to, \"data\": $(quoted "$line")}" \
    "$server/api/v1/events"
  do
    case $? in
      52 | 55 | 56) sleep 1 ;;
      *) exit 1 ;;
    esac
  done
done
