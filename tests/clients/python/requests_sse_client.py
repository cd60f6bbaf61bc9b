"""PyPI `requests-sse`: it reconnects by itself five times, so a loop goes around it."""

import sys
import time

import requests
from output import HEADERS, REFUSED, SILENCE, end, in_threads, show, spread
from requests_sse import EventSource, InvalidStatusCodeError


def listen(address, stream):
    cursor = ""
    while True:
        try:
            with EventSource(address, headers=HEADERS, timeout=SILENCE, latest_event_id=cursor) as source:
                for event in source:
                    cursor = event.last_event_id or cursor
                    show(stream, event.type, cursor, event.data)
        except InvalidStatusCodeError as error:
            if error.status_code in REFUSED:
                return end(stream, error.status_code)
        except requests.RequestException as error:
            print(repr(error), file=sys.stderr, flush=True)
        time.sleep(spread(1))


in_threads(listen)
