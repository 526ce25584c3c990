"""A worker reduced to what balancing is about: one server, a queue in front of it, a service time.

`POST /predict?ms=40` is answered 40 ms after the requests before it are done. It waits instead of
computing, so that four of them are really four servers on a machine of two cores. It reports its
queue as real workers do (`endpoint-load-metrics`), and with a second argument also its concurrency.
Like them, it starts nothing that has waited longer than `x-imagefleet-timeout-ms`.
"""

import asyncio
import re
import sys
import time

INDEX = b'[{"name":"mnist","version":"1","state":"READY","reason":""}]'


CONCURRENCY = b',"concurrency":%s' % sys.argv[2].encode() if len(sys.argv) > 2 else b""


class Server:
    def __init__(self):
        self.free_at, self.waiting = 0.0, 0

    async def serve(self, milliseconds, limit):
        now = time.monotonic()
        begin = max(self.free_at, now)
        if begin > now + limit:
            await asyncio.sleep(limit)
            return False
        self.free_at = begin + milliseconds / 1e3
        self.waiting += 1
        await asyncio.sleep(self.free_at - now)
        self.waiting -= 1
        return True

    async def connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"content-length: *(\d+)", head, re.IGNORECASE):
                    await reader.readexactly(int(length[1]))
                line = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                if cost := re.search(rb"[?&]ms=([\d.]+)", head):
                    left = re.search(rb"x-imagefleet-timeout-ms: *(\d+)", head, re.IGNORECASE)
                    if not await self.serve(float(cost[1]), int(left[1]) / 1e3 if left else 60):
                        line = line.replace(b"200 OK", b"504 Gateway Timeout")
                body = INDEX if b"/v2/repository/index" in head else b'"7"\n'
                named = b'{"queue":%d%s}' % (self.waiting, CONCURRENCY)
                load = b'endpoint-load-metrics: JSON {"named_metrics":%s}\r\n' % named
                writer.write(line + load + b"content-length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main():
    server = await asyncio.start_server(Server().connection, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
