#!/usr/bin/env python3
"""Publishes each line of standard input as an event, for everyone or for a topic.

    printf 'first\\nsecond\\n' | CARILLON_TOKEN=… python3 examples/python/publish.py [TOPIC]
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

SERVER = os.environ.get("CARILLON_SERVER", "http://127.0.0.1:8080")
TOKEN = os.environ["CARILLON_TOKEN"]
# How long to go on trying. Keys are known as long as the event is kept, so this may be days.
PATIENCE = 60
# What may pass by itself. Anything else that is no success means that the request is wrong.
PASSING = {408, 429, 502, 503, 504}


def publish(event):
    """Publishes an event; its id and position. Tries again until it is known to be in the log, once."""
    request = urllib.request.Request(
        f"{SERVER}/api/v1/events",
        data=json.dumps(event).encode(),
        # If no answer comes, nobody knows whether the event is published. With the same key it is safe to ask
        # again: the second time gives the first event.
        headers={"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": str(uuid.uuid4())},
    )
    give_up = time.monotonic() + PATIENCE
    pause = 0.2
    while True:
        asked = 0
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in PASSING:
                sys.exit(f"refused: {error.read().decode()}")
            asked = float(error.headers.get("Retry-After", 0))
            problem = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Nothing, or half an answer.
            problem = error
        if time.monotonic() > give_up:
            sys.exit(f"not acknowledged: {problem}")
        # At random, so that many publishers do not come back all at once.
        time.sleep(max(asked, pause * random.uniform(0.5, 1)))
        pause = min(pause * 2, 10)


def main():
    to = {"topic": sys.argv[1]} if len(sys.argv) > 1 else "everyone"
    for line in sys.stdin:
        receipt = publish({"type": "note", "to": to, "data": line.rstrip("\n")})
        print(receipt["position"], receipt["id"], flush=True)


if __name__ == "__main__":
    main()
