"""An open-loop load generator for a few hundred requests per second that records every outcome.

Requests leave at their scheduled instants whatever happened to the earlier ones. A failure is anything that
a client can see: no connection, a closed or reset connection, a status other than 200, no answer in time.
Nothing is retried.
"""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Outcome:
    scheduled: float  # seconds since the start of the load
    latency: float
    failure: str = ""  # empty when the answer was 200


@dataclass
class Load:
    host: str
    port: int
    request: bytes
    rate: float
    timeout: float = 10.0
    outcomes: list = field(default_factory=list)
    _idle: list = field(default_factory=list)

    async def run(self, seconds):
        every = [(number / self.rate, self.request) for number in range(int(self.rate * seconds))]
        return await self.run_schedule(every)

    async def run_schedule(self, schedule):
        self.began = time.monotonic()
        tasks = []
        for at, request in schedule:
            pause = self.began + at - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(self._one(at, request)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()
        return self.outcomes

    def now(self):
        return time.monotonic() - self.began

    async def _one(self, at, request):
        failure = ""
        try:
            async with asyncio.timeout(self.timeout):
                status = await self._exchange(request)
            if status != 200:
                failure = f"status {status}"
        except TimeoutError:
            failure = "timeout"
        except (OSError, EOFError, asyncio.IncompleteReadError, ValueError) as error:
            failure = type(error).__name__
        self.outcomes.append(Outcome(at, self.now() - at, failure))

    async def _exchange(self, request):
        reader, writer = await self._connection()
        keep = False
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await self._body(reader, head)
            keep = "connection: close" not in head
            return int(head.split(" ", 2)[1])
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self):
        while self._idle:
            reader, writer = self._idle.pop()
            # A client would not use a connection that the server has closed meanwhile.
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    @staticmethod
    async def _body(reader, head):
        if "transfer-encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
