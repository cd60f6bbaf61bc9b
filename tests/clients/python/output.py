"""What all programs here share: a JSON line for each event, and one when a stream is over for good."""

import json
import os
import random
import sys
import threading

ADDRESSES = sys.argv[1:]
HEADERS = {"Authorization": f"Bearer {os.environ['CARILLON_TOKEN']}"}
# A node says something every 15 seconds: three times that is a connection that died unnoticed.
SILENCE = 45
REFUSED = (400, 401, 403)


def show(stream, event, cursor, data):
    # In one piece: several threads write.
    line = json.dumps({"stream": stream, "event": event, "id": cursor, "data": data})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(stream, reason):
    sys.stdout.write(json.dumps({"stream": stream, "end": str(reason)}) + "\n")
    sys.stdout.flush()


def resumed(cursor):
    return {**HEADERS, **({"Last-Event-ID": cursor} if cursor else {})}


def spread(pause):
    """The pause of one among many, who must not all come back at once."""
    return pause * random.uniform(0.5, 1.5)


def in_threads(listen):
    for stream, address in enumerate(ADDRESSES):
        threading.Thread(target=listen, args=(address, stream)).start()
