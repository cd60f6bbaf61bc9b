#!/usr/bin/env python3
"""Prints each event as a line of JSON, once, whatever happens to the connection or to the node.

    CARILLON_TOKEN=… python3 examples/python/listen.py [TOPIC …]
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict

# Any node will do; several, separated by commas, are tried in turn.
SERVERS = os.environ.get("CARILLON_SERVER", "http://127.0.0.1:8080").split(",")
TOKEN = os.environ["CARILLON_TOKEN"]
# A node says something at least every 15 seconds: three times that is a connection that died unnoticed.
SILENCE = 45
# How many ids to remember. Repeats are of the last few, not of last week.
IDS_KEPT = 10_000


class Listener:
    def __init__(self, topics):
        self.topics = topics
        self.cursor = ""
        self.seen = OrderedDict()
        self.pause = 1.0
        self.server = SERVERS[0]

    def run(self):
        for attempt in range(sys.maxsize):
            self.server = SERVERS[attempt % len(SERVERS)]
            try:
                self.follow(self.get("stream", self.topics, {"Last-Event-ID": self.cursor}))
            except urllib.error.HTTPError as error:
                # The request is wrong, or the token is over: asking again would not help.
                if error.code in (400, 401, 403):
                    sys.exit(f"refused: {error.read().decode()}")
            except (OSError, http.client.HTTPException) as error:
                # The connection broke, was silent for too long, or could not be made.
                print(f"{self.server}: {error}", file=sys.stderr, flush=True)
            # At random, so that not everybody comes back at once when a node goes.
            time.sleep(self.pause * random.uniform(0.5, 1.5))

    def get(self, path, topics, headers={}, **parameters):
        query = urllib.parse.urlencode({"topic": topics, **parameters}, doseq=True)
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        request = urllib.request.Request(f"{self.server}/api/v1/{path}?{query}", headers=headers)
        return urllib.request.urlopen(request, timeout=SILENCE)

    def follow(self, stream):
        """Reads frames (https://html.spec.whatwg.org/#parsing-an-event-stream) until the stream ends."""
        event, data, cursor = "", [], self.cursor
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                cursor = value
            elif name == "retry":
                self.pause = int(value) / 1000
            elif line == b"\n":
                if data:
                    self.handle(event, json.loads("\n".join(data)))
                if not self.cursor:
                    print(f"listening to {self.server}", file=sys.stderr, flush=True)
                # Only now: the id of a frame that was cut off or failed would skip that frame.
                self.cursor = cursor
                event, data = "", []

    def handle(self, event, data):
        if event == "":
            self.show(data)
        elif event == "carillon.reset":
            # What was missed cannot be told any more, but the inbox has what is still of interest.
            print(f"history was lost ({data['reason']}): reading the inbox", file=sys.stderr, flush=True)
            self.read_inbox([])
            if self.topics:
                self.read_inbox(self.topics)
        # carillon.read, carillon.retract and carillon.expire are for those who show a list.

    def read_inbox(self, topics):
        """Shows what the newest page has that was not seen: of some topics, or else for this user and everyone."""
        with self.get("inbox", topics, limit=200) as answer:
            for entry in reversed(json.load(answer)["entries"]):
                self.show(entry)

    def show(self, event):
        if event["id"] in self.seen:
            return
        self.seen[event["id"]] = None
        if len(self.seen) > IDS_KEPT:
            self.seen.popitem(last=False)
        print(json.dumps(event), flush=True)


if __name__ == "__main__":
    try:
        Listener(sys.argv[1:]).run()
    except KeyboardInterrupt:
        pass
