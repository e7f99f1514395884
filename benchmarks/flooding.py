"""Flooding: many calls that nobody will wait for. Usage: flooding.py PORT CALLS CHANNELS.

Reads a message from standard input, sends it CALLS times, tells "sent", and waits for the end of
standard input; then cancels every call and tells "cancelled".
"""

import asyncio
import sys

import grpc

from servers import INFER

# A connection of its own per channel: a server bounds the calls of one connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
# Calls that are begun before the channels get to write.
STRIDE = 500


async def main() -> None:
    """Send, wait, cancel."""
    port, count, channel_count = map(int, sys.argv[1:])
    length = int.from_bytes(sys.stdin.buffer.read(4), "big")
    payload = sys.stdin.buffer.read(length)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", OPTIONS) for _ in range(channel_count)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    asks = [channel.unary_unary(INFER) for channel in channels]
    calls = []
    for index in range(count):
        calls.append(asks[index % channel_count](payload))
        if index % STRIDE == 0:
            await asyncio.sleep(0)
    print("sent", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for index, call in enumerate(calls):
        call.cancel()
        if index % STRIDE == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*(call.code() for call in calls))
    for channel in channels:
        await channel.close()
    print("cancelled", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
