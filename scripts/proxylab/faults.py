"""What clients see when workers and balancers die, stall, fail, drain and restart.

500 requests/s go through a proxy to four real workers while one fault happens; every answer that is
not 200 is counted. The same faults hit the balancer, HAProxy and nginx.
"""

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from load import Load
from names import NameServer
from proxies import BIN, ROOT, Haproxy, Imagefleet, Nginx, answers, free_port, version, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from record import Result, command_line  # noqa: E402



@dataclass
class Plan:
    """Rate and duration of the load."""

    rate: float = 500  # requests/s
    before: float = 2  # seconds before the fault
    after: float = 10


# A request for an iris costs a worker next to nothing, so failures are the proxy's even where load
# generator, four workers and proxy share two cores.
FLOWER = b'{"instances": [{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}]}'


class Worker:
    """A real worker that can be killed and started again on its port."""

    def __init__(self, models):
        self.models, self.port = models, free_port()
        self.address = f"127.0.0.1:{self.port}"

    def start(self):
        command = [
            BIN / "worker",
            "--log",
            "error",
            "serve",
            "--listen",
            self.address,
            "--threads",
            "1",
            "--models",
            self.models,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        return self

    def wait_ready(self):
        wait_until(lambda: answers(f"http://{self.address}/v2/health/ready"), 20, "a worker is ready")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Scene:
    """Four workers, one proxy, and the load; a fault is an async function that takes a scene."""

    def __init__(self, folder, kind):
        shutil.copytree(ROOT / "models", folder / "models", dirs_exist_ok=True)
        self.models = folder / "models"
        self.workers = [Worker(self.models).start() for _ in range(4)]
        for worker in self.workers:
            worker.wait_ready()
        self.upstreams = [worker.address for worker in self.workers]
        self.folder, self.kind, self.names = folder, kind, None

    def begin(self, rate):
        if self.names:
            self.upstreams = ["dns+srv:_http._tcp.fleet.test"]
            Imagefleet.extra = (*Imagefleet.extra, "--dns-server", self.names.address)
        self.proxy = self.kind(self.folder, self.upstreams).start()
        head = f"POST /v1/models/iris_model:predict HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(FLOWER)}\r\n\r\n"
        self.load = Load("127.0.0.1", self.proxy.port, head.encode() + FLOWER, rate)

    def end(self):
        if hasattr(self, "proxy"):
            self.proxy.stop()
        for worker in self.workers:
            worker.stop()


async def kill(scene):
    """kill -9 of a worker, started again five seconds later."""
    scene.workers[1].signal(signal.SIGKILL)
    await asyncio.sleep(5)
    scene.workers[1].process.wait()
    scene.workers[1].start()


async def freeze(scene):
    """SIGSTOP of a worker: connections stay open and nothing comes back."""
    scene.workers[1].signal(signal.SIGSTOP)


async def fail(scene):
    """A worker answers 500 to everything and calls itself ready: there from the start."""


async def drain(scene):
    """The operator takes a worker out, then stops it."""
    await asyncio.to_thread(scene.proxy.drain, scene.upstreams[1])
    await asyncio.sleep(3)
    await asyncio.to_thread(scene.workers[1].stop)


async def roll(scene):
    """SIGTERM and a new process for each worker, one after the other."""
    for worker in scene.workers:
        await asyncio.to_thread(worker.stop)
        worker.start()
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.sleep(0.5)


async def restart(scene):
    """The proxy itself is replaced, three times."""
    for _ in range(3):
        await asyncio.to_thread(scene.proxy.restart)
        await asyncio.sleep(1)


async def swap(scene):
    """A new model version every second."""
    for version in range(2, 8):
        half_copied = scene.models / "iris_model" / f".{version}"
        shutil.copytree(scene.models / "iris_model" / "1", half_copied)
        half_copied.rename(scene.models / "iris_model" / str(version))
        await asyncio.sleep(1)


async def rename(scene):
    """The DNS name gets a fourth worker and loses the first, which is then stopped."""
    scene.names.ports = [worker.port for worker in scene.workers[1:]]
    await asyncio.sleep(5)
    await asyncio.to_thread(scene.workers[0].stop)


FAULTS = {f.__name__: f for f in (kill, freeze, fail, drain, roll, restart, swap, rename)}
# nginx does not follow SRV records, and HAProxy only asks name servers that it was configured with.
ONLY_OURS = {"rename"}


async def play(scene, fault, plan):
    running = asyncio.create_task(scene.load.run(plan.before + plan.after))
    await asyncio.sleep(plan.before)
    at = scene.load.now()
    await fault(scene)
    outcomes = await running
    failures = [outcome for outcome in outcomes if outcome.failure]
    kinds = {}
    for outcome in failures:
        kinds[outcome.failure] = kinds.get(outcome.failure, 0) + 1
    latencies = sorted(outcome.latency for outcome in outcomes)
    return {
        "requests": len(outcomes),
        "failures": len(failures),
        "later_than_6_s": sum(outcome.scheduled > at + 6 for outcome in failures),
        "kinds": kinds,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def failing_upstream():
    """A worker that is ready, serves every model and answers 500: see failing.py."""
    port = free_port()
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("failing.py"), str(port)])
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/v2/health/ready"), 10, "the failing worker answers")
    return process, f"127.0.0.1:{port}"


def trial(kind, name, plan):
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), kind)
        failing = None
        try:
            if name == "rename":
                scene.names = NameServer(worker.port for worker in scene.workers[:3])
            if name == "fail":
                failing, scene.upstreams[1] = failing_upstream()
            scene.begin(plan.rate)
            return asyncio.run(play(scene, FAULTS[name], plan))
        finally:
            scene.end()
            if scene.names:
                scene.names.stop()
            if failing:
                failing.kill()
                failing.wait()


# Names of the faults in the tables, by function.
WORDS = {
    "kill": "kill -9 of a worker, started again five seconds later",
    "freeze": "SIGSTOP of a worker",
    "fail": "a worker answers 500 to everything",
    "drain": "a worker is drained, then stopped",
    "roll": "SIGTERM and a new process for each worker in turn",
    "restart": "the proxy itself is replaced, three times",
    "swap": "a new model version every second",
    "rename": "a DNS name loses a worker and gets another",
}


def record(results, plan):
    """Writes the result of every proxy and fault to bench/results."""
    names = {"imagefleet": "imagefleet", "haproxy": "HAProxy", "nginx": "nginx"}
    versions = {"HAProxy": version(["haproxy", "-v"]), "nginx": version(["nginx", "-v"])}
    load = f"{plan.rate:g}/s for {plan.before + plan.after:g} s"
    result = Result("faults", command_line(), **versions, requests=load, threads=1)
    for (fault, proxy), found in results.items():
        result.add(WORDS[fault], names[proxy], "", [found["failures"]])
    for (fault, proxy), found in results.items():
        if fault == "freeze":
            result.add(f"99th percentile of the latency, {WORDS[fault]}", names[proxy], "s", [found["p99_ms"] / 1e3])
    result.write()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--fault", action="append", choices=FAULTS, help="only this one (repeatable)")
    arguments.add_argument("--proxy", action="append", choices=("imagefleet", "haproxy", "nginx"))
    arguments.add_argument("--json", type=Path, help="also write every result there")
    arguments.add_argument("balancer", nargs="*", help="flags for the balancer, after --")
    options = arguments.parse_args()
    Imagefleet.extra = options.balancer
    kinds = [k for k in (Imagefleet, Haproxy, Nginx) if not options.proxy or k.name in options.proxy]
    results, plan = {}, Plan()
    total = plan.rate * (plan.before + plan.after)
    print(f"failures that clients see, of {total} requests at {plan.rate}/s over 4 workers\n")
    print(
        "| fault | " + " | ".join(kind.name for kind in kinds) + " |\n| --- |" + " ---: |" * len(kinds),
        flush=True,
    )
    for name in options.fault or FAULTS:
        cells = []
        for kind in kinds:
            if name in ONLY_OURS and kind is not Imagefleet:
                cells.append("")
                continue
            result = results[name, kind.name] = trial(kind, name, plan)
            late = f", {result['later_than_6_s']} after 6 s" if result["failures"] else ""
            cells.append(f"{result['failures']}{late}")
            print(f"{name} {kind.name}: {result}", file=sys.stderr, flush=True)
        print(f"| {FAULTS[name].__doc__.strip().rstrip('.')} | " + " | ".join(cells) + " |", flush=True)
    if not options.fault and not options.proxy:
        record(results, plan)
    if options.json:
        options.json.write_text(json.dumps({" ".join(key): value for key, value in results.items()}, indent=1))


if __name__ == "__main__":
    main()
