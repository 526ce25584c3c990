"""Two builds of the balancer side by side in one interleaved run: what a change costs per request.

    python3 scripts/proxylab/builds.py before=FOLDER after=FOLDER              each folder contains a `balancer`
    python3 scripts/proxylab/builds.py own=A hyper=B --record upstream-codec   figures go to bench/results

Each round runs both in turn, for one second each; the ratio is the median of the rounds' own ratios, since a shared
machine changes its speed from second to second but rarely within one. Memory is how much the process grows when 250
requests are at a worker.
"""

import argparse
import asyncio
import re
import statistics
import tempfile
import threading
from pathlib import Path

import proxies as lab
from bench import GET, POST, Result, at_rate, command_line, drive
from proxies import Imagefleet, free_port, run, trivial_upstreams, wait_until

HELD = 250
REQUEST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
# The body of every answer, including that to the request for its models.
MODELS = b'[{"name": "m", "version": "1", "state": "READY"}]'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(MODELS), MODELS)


class Holder:
    """A worker that holds its answers until `release`, in a thread of its own."""

    def __init__(self):
        self.held, self.port = 0, free_port()
        self.loop = asyncio.new_event_loop()
        self.open = asyncio.Event()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        serving = asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1024)
        asyncio.run_coroutine_threadsafe(serving, self.loop).result()

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if b"/predict" in head:
                    self.held += 1
                    await self.open.wait()
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def release(self):
        self.loop.call_soon_threadsafe(self.open.set)


def resident(proxy):
    """Kilobytes of resident memory of its processes."""
    status = (Path(f"/proc/{pid}/status").read_text() for pid in proxy.pids())
    return sum(int(re.search(r"VmRSS:\s+(\d+)", one)[1]) for one in status)


async def ask(port, count):
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in streams:
        writer.write(REQUEST)
    return streams


async def answered(streams):
    await asyncio.gather(*(reader.readuntil(b"]") for reader, _ in streams))


def memory(folder, kind):
    """Kilobytes per request that is at the worker."""
    holder = Holder()
    proxy = kind(folder, [f"127.0.0.1:{holder.port}"], pin=0)
    proxy.extra = [*kind.extra, "--max-in-flight", HELD]
    proxy.start()
    loop = asyncio.new_event_loop()
    try:
        before = resident(proxy)
        streams = loop.run_until_complete(ask(proxy.port, HELD))
        wait_until(lambda: holder.held == HELD, 10, "all requests are at the worker")
        spent = resident(proxy) - before
        holder.release()
        loop.run_until_complete(answered(streams))
        return spent / HELD
    finally:
        proxy.stop()


def measure(folder, builds, rounds):
    runs = {}
    for number in range(rounds):
        turn = builds if number % 2 == 0 else builds[::-1]
        for load in (GET, POST):
            for proxy in turn:
                runs.setdefault((load, proxy.name), []).append(drive(folder, proxy, load, 1))
    rate, pauses = 0.7 * statistics.median(run["rate"] for run in runs[GET, builds[0].name]), {}
    for number in range(max(rounds // 2, 1)):
        for proxy in builds if number % 2 == 0 else builds[::-1]:
            runs.setdefault(("paced", proxy.name), []).append(at_rate(folder, proxy, rate, 1, pauses))
    return runs


FIGURES = (
    (f"processor time per {GET}", GET, "cpu_us", "µs"),
    (f"processor time per {POST}", POST, "cpu_us", "µs"),
    (f"99th percentile at 70 % of the peak rate, {GET}", "paced", "p99_ms", "ms"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs=2, metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--record", metavar="EXPERIMENT", help="also into bench/results, under this name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ports = [free_port(), free_port()]
        upstream = trivial_upstreams(folder, ports, pin=1)
        builds, held = [], {}
        try:
            for build in options.builds:
                name, place = build.split("=", 1)
                kind = type(name, (Imagefleet,), {"name": name, "extra": ["--access-log", str(folder / f"{name}.log")]})
                lab.BIN = Path(place).resolve()
                held[name] = [memory(folder, kind) for _ in range(3)]
                builds.append(kind(folder, [f"127.0.0.1:{port}" for port in ports], pin=0).start())
            runs = measure(folder, builds, options.rounds)
        finally:
            for proxy in builds:
                proxy.stop()
            upstream.terminate()
            upstream.wait()
    report(runs, held, [proxy.name for proxy in builds], options)


def report(runs, held, names, options):
    first, second = names
    result = Result(options.record or "builds", command_line(), rounds=options.rounds, threads=1)
    for what, load, figure, unit in FIGURES:
        values = {name: [run[figure] for run in runs[load, name]] for name in names}
        ratios = sorted(new / old for old, new in zip(values[first], values[second], strict=True))
        quarter = len(ratios) // 4
        middles = ", ".join(f"{name} {statistics.median(values[name]):.2f} {unit}" for name in names)
        print(f"{what}: {middles}; {second} / {first} {statistics.median(ratios):.3f}", end=" ")
        print(f"(half of the rounds between {ratios[quarter]:.3f} and {ratios[-1 - quarter]:.3f})")
        for name in names:
            result.add(what, name, unit, values[name])
        result.add(what, f"{second} / {first}", "x", ratios)
    for name in names:
        print(f"memory per request at a worker: {name} {statistics.median(held[name]):.1f} KB")
        result.add("memory per request at a worker", name, "KB", held[name])
    if options.record:
        result.write()


if __name__ == "__main__":
    run(main)
