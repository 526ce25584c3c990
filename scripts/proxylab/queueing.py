"""A worker reduced to what balancing is about: one server, a queue in front of it, a service time.

`POST /predict?ms=40` is answered 40 ms after the requests before it are done. It waits instead of
computing, so that four of them are really four servers on a machine of two cores. It reports its
queue as real workers do (`endpoint-load-metrics`).
"""

import asyncio
import re
import sys
import time

INDEX = b'[{"name":"mnist","version":"1","state":"READY","reason":""}]'


class Server:
    def __init__(self):
        self.free_at, self.waiting = 0.0, 0

    async def serve(self, milliseconds):
        now = time.monotonic()
        self.free_at = max(self.free_at, now) + milliseconds / 1e3
        self.waiting += 1
        await asyncio.sleep(self.free_at - now)
        self.waiting -= 1

    async def connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"content-length: *(\d+)", head, re.IGNORECASE):
                    await reader.readexactly(int(length[1]))
                if cost := re.search(rb"[?&]ms=([\d.]+)", head):
                    await self.serve(float(cost[1]))
                body = INDEX if b"/v2/repository/index" in head else b'"7"\n'
                load = b'endpoint-load-metrics: JSON {"named_metrics":{"queue":%d}}\r\n' % self.waiting
                line = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                writer.write(line + load + b"content-length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main():
    server = await asyncio.start_server(Server().connection, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
