"""PyPI `httpx-sse`, with the loop that reconnects."""

import asyncio
import sys

import httpx
from httpx_sse import aconnect_sse
from output import ADDRESSES, REFUSED, SILENCE, end, resumed, show, spread


async def listen(address, stream):
    cursor, pause = "", 1.0
    # httpx gives up after five seconds of silence unless told otherwise.
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=SILENCE)) as client:
        while True:
            try:
                async with aconnect_sse(client, "GET", address, headers=resumed(cursor)) as source:
                    if source.response.status_code in REFUSED:
                        return end(stream, source.response.status_code)
                    source.response.raise_for_status()
                    async for event in source.aiter_sse():
                        cursor = event.id or cursor
                        pause = event.retry / 1000 if event.retry else pause
                        # It hands out frames without data, too.
                        if event.data:
                            show(stream, event.event, cursor, event.data)
            except httpx.HTTPError as error:
                print(repr(error), file=sys.stderr, flush=True)
            await asyncio.sleep(spread(pause))


async def main():
    await asyncio.gather(*(listen(address, stream) for stream, address in enumerate(ADDRESSES)))


asyncio.run(main())
