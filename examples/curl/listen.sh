#!/usr/bin/env bash
# Prints each event as a line of JSON and comes back where it was whenever the connection ends:
#
#     CARILLON_TOKEN=… examples/curl/listen.sh [TOPIC]
#
# With CURSOR_FILE it also goes on from there when it is started again.
set -euo pipefail
: "${CARILLON_TOKEN:?must be a token with the scope listen}"
server=${CARILLON_SERVER:-http://127.0.0.1:8080}
cursor=
[ ! -s "${CURSOR_FILE:-}" ] || cursor=$(cat "$CURSOR_FILE")
answer=$(mktemp)
trap 'kill $curl 2>/dev/null || true; rm -f "$answer"' EXIT
curl=

# A blank line ends a frame. Only then does its id count: a frame that was cut off comes again, whole.
end_of_frame() {
  if [ "$id" != "$cursor" ]; then
    [ -n "$cursor" ] || echo "listening to $server" >&2
    cursor=$id
  fi
  case $event in
    '') [ -z "$data" ] || printf '%s\n' "$data" ;;
    # What was missed cannot be told: it may be in the inbox, which also has what is there already.
    carillon.reset) echo "history was lost: $data; see $server/api/v1/inbox" >&2 ;;
    # carillon.read, .retract, .expire: of use to those who show a list.
  esac
  # After the line is printed, so that a crash in between repeats an event rather than losing it.
  [ -z "${CURSOR_FILE:-}" ] || printf '%s\n' "$cursor" >"$CURSOR_FILE"
  event= data=
}

while :; do
  # An empty Last-Event-ID is none: it begins with what comes now.
  exec 3< <(exec curl --silent --no-buffer --fail --connect-timeout 5 --write-out '%{stderr}%{http_code}' \
    --header "Authorization: Bearer $CARILLON_TOKEN" --header "Last-Event-ID: $cursor" \
    ${1:+--get --data-urlencode "topic=$1"} "$server/api/v1/stream" 2>"$answer")
  curl=$!
  event= data= id=$cursor
  # Silence of three heartbeats means a dead connection, which TCP alone may not notice for hours.
  while IFS= read -r -t 45 line <&3; do
    case $line in
      '') end_of_frame ;;
      id:*) id=${line#id: } ;;
      event:*) event=${line#event: } ;;
      data:*) data=${line#data: } ;;
      # A comment is a heartbeat; retry: is for those who can wait in milliseconds.
    esac
  done
  exec 3<&-
  kill "$curl" 2>/dev/null || true
  wait "$curl" 2>/dev/null || true
  case $(cat "$answer") in
    400 | 401 | 403)
      echo "refused with $(cat "$answer"): is the token right?" >&2
      exit 1
      ;;
  esac
  # Not all at once: when a node goes, many come back.
  sleep "1.$((RANDOM % 10))"
done
