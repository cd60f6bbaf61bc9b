"""PyPI `aiohttp-sse-client`: a connection that breaks is an exception, so a loop goes around it."""

import asyncio
import sys

from aiohttp import ClientError, ClientSession, ClientTimeout
from aiohttp_sse_client.client import EventSource
from output import ADDRESSES, SILENCE, end, resumed, show, spread


async def listen(session, address, stream):
    cursor = ""
    while True:
        try:
            async with EventSource(address, session=session, headers=resumed(cursor)) as source:
                async for event in source:
                    cursor = event.last_event_id or cursor
                    show(stream, event.type or "message", cursor, event.data)
        except ConnectionRefusedError as error:
            # So it calls the status 401.
            return end(stream, error)
        except (ClientError, ConnectionError, asyncio.TimeoutError) as error:
            print(repr(error), file=sys.stderr, flush=True)
        await asyncio.sleep(spread(1))


async def main():
    # aiohttp ends each request after five minutes unless told otherwise.
    async with ClientSession(timeout=ClientTimeout(total=None, sock_read=SILENCE)) as session:
        await asyncio.gather(*(listen(session, address, stream) for stream, address in enumerate(ADDRESSES)))


asyncio.run(main())
