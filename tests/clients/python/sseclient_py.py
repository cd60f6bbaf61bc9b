"""PyPI `sseclient-py` over `requests`, with the loop that reconnects."""

import sys
import time

import requests
from output import REFUSED, SILENCE, end, in_threads, resumed, show, spread
from sseclient import SSEClient


def listen(address, stream):
    cursor, pause = "", 1.0
    while True:
        try:
            answer = requests.get(address, headers=resumed(cursor), stream=True, timeout=(5, SILENCE))
            if answer.status_code in REFUSED:
                return end(stream, answer.status_code)
            answer.raise_for_status()
            for event in SSEClient(answer).events():
                cursor = event.id or cursor
                pause = int(event.retry) / 1000 if event.retry else pause
                show(stream, event.event, cursor, event.data)
        except requests.RequestException as error:
            print(repr(error), file=sys.stderr, flush=True)
        time.sleep(spread(pause))


in_threads(listen)
