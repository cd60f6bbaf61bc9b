#!/usr/bin/env bash
# curl, with the loop that reconnects: curl.sh ADDRESS…
set -euo pipefail

# A JSON string of any text without control characters but tab and newline.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  printf '"%s"' "${text//$'\t'/\\t}"
}

# A blank line ends a frame. Only then does its id count: a frame that was cut off comes again, whole.
end_of_frame() {
  cursor=$id
  if [ -n "$has_data" ]; then
    printf '{"stream":%d,"event":%s,"id":%s,"data":%s}\n' "$stream" "$(quoted "${event:-message}")" \
      "$(quoted "$cursor")" "$(quoted "${data%$'\n'}")"
  fi
  event= data= has_data=
}

listen() {
  local stream=$1 address=$2 cursor= pause=1 status curl
  status=$(mktemp)
  trap 'kill "$curl" 2>/dev/null; rm -f "$status"' EXIT
  while :; do
    exec 3< <(exec curl --silent --no-buffer --fail --connect-timeout 5 --write-out '%{stderr}%{http_code}' \
      --header "Authorization: Bearer $CARILLON_TOKEN" ${cursor:+--header "Last-Event-ID: $cursor"} \
      "$address" 2>"$status")
    curl=$!
    event= data= has_data= id=$cursor
    while IFS= read -r -t 45 line <&3; do
      case $line in
        '') end_of_frame ;;
        id:*) line=${line#id:} id=${line# } ;;
        event:*) line=${line#event:} event=${line# } ;;
        data:*) line=${line#data:} data+=${line# }$'\n' has_data=1 ;;
        retry:*) line=${line#retry:} pause=$(((${line# } + 999) / 1000)) ;;
      esac
    done
    exec 3<&-
    kill "$curl" 2>/dev/null || true
    wait "$curl" 2>/dev/null || true
    case $(cat "$status") in
      400 | 401 | 403)
        printf '{"stream":%d,"end":"%s"}\n' "$stream" "$(cat "$status")"
        exit
        ;;
    esac
    sleep "$pause.$((RANDOM % 10))"
  done
}

trap 'kill $(jobs -p) 2>/dev/null' EXIT
stream=0
for address; do
  listen "$stream" "$address" &
  stream=$((stream + 1))
done
wait
