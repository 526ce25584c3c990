"""Goodput beyond saturation: what a fleet still completes under three times the load that it can serve.

Four workers with one server each take 20 ms per request, so the fleet saturates at 200 per second. Each
client waits for one second and sends that as its deadline (or, with `--untold`, just hangs up); an answer
that comes later is worth nothing.
A balancer that admits everything keeps its workers busy with requests that no client is waiting for any
more; one that queues until the deadline hands over requests with no time left. The goodput of each
step is the rate of answers in time; at three times the saturating rate it should be at least 95 %
of the best step. Workers are timers (`queueing.py`), so that all of it fits on two cores.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

from load import Load
from proxies import Haproxy, Imagefleet, Nginx, answers, free_port, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from record import Result, command_line  # noqa: E402

WORKERS, SERVICE_MS, PATIENCE = 4, 20, 1.0
SATURATION = WORKERS * 1e3 / SERVICE_MS
STEPS = (0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
GOAL = 0.95
WARM_UP = 3.0  # seconds; the queue has to fill first
KINDS = {kind.name: kind for kind in (Imagefleet, Haproxy, Nginx)}

def request(is_told):
    deadline = f"X-Imagefleet-Timeout-Ms: {PATIENCE * 1e3:.0f}\r\n" if is_told else ""
    head = f"POST /predict?ms={SERVICE_MS} HTTP/1.1\r\nHost: lab\r\nContent-Type: image/png\r\n{deadline}"
    return f"{head}Content-Length: 5\r\n\r\nhello".encode()


def step(proxy, rate, seconds, raw):
    """Poisson arrivals at `rate`: the rate of answers in time, and every outcome by kind."""
    rng = random.Random(rate)
    times = accumulate(rng.expovariate(rate) for _ in range(int(rate * (seconds + WARM_UP))))
    load = Load("127.0.0.1", proxy.port, b"", rate, timeout=PATIENCE)
    outcomes = asyncio.run(load.run_schedule([(at, raw) for at in times]))
    counted = [outcome for outcome in outcomes if outcome.scheduled > WARM_UP]
    good = [o for o in counted if not o.failure and o.latency <= PATIENCE]
    kinds = {}
    for outcome in counted:
        word = outcome.failure or ("in time" if outcome.latency <= PATIENCE else "late")
        kinds[word] = kinds.get(word, 0) + 1
    latencies = sorted(outcome.latency for outcome in good) or [0.0]
    span = max(outcome.scheduled for outcome in counted) - WARM_UP
    return {
        "offered": len(counted) / span,
        "goodput": len(good) / span,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "outcomes": kinds,
    }


def climb(kind, upstreams, options):
    """Every step, each with a fresh proxy, so that no step inherits the backlog of the one before."""
    raw = request(not options.untold)
    for factor in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            proxy = kind(folder, upstreams).start()
            try:
                yield factor, step(proxy, factor * SATURATION, options.seconds, raw)
            finally:
                proxy.stop()


def record(results, options):
    """Writes the goodput at its peak and beyond saturation to bench/results."""
    result = Result("overload", command_line(), seconds_per_step=options.seconds)
    beyond = f"{STEPS[-1]:g} times saturation"
    for name, steps in results.items():
        of = f"{name}, clients that tell no deadline" if options.untold else name
        goodputs = {factor: figures["goodput"] for factor, figures in steps.items()}
        peak, last = max(goodputs.values()), goodputs[STEPS[-1]]
        result.add(f"goodput at {beyond}, share of its peak", of, "%", [100 * last / peak])
        result.add(f"goodput at {beyond}", of, "/s", [last])
        result.add("peak goodput", of, "/s", [peak])
    result.write()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=6, help="of one step")
    arguments.add_argument("--untold", action="store_true", help="clients hang up without having set a deadline")
    arguments.add_argument("--proxy", action="append", choices=KINDS, help="[default: imagefleet]")
    arguments.add_argument("--json", type=Path, help="also write every step there")
    arguments.add_argument("balancer", nargs="*", help="flags for the balancer, after --")
    options = arguments.parse_args()
    Imagefleet.extra = options.balancer
    ports = [free_port() for _ in range(WORKERS)]
    stub = Path(__file__).with_name("queueing.py")
    workers = [subprocess.Popen([sys.executable, stub, str(port), "1"]) for port in ports]
    upstreams = [f"127.0.0.1:{port}" for port in ports]
    results, reached = {}, True
    print(f"saturation at {SATURATION:.0f} requests/s; answers count within {PATIENCE:.0f} s\n")
    print("| proxy | offered, 1/s | goodput, 1/s | p99 of it, ms | outcomes |\n| --- |" + " ---: |" * 3 + " --- |")
    try:
        for upstream in upstreams:
            wait_until(lambda u=upstream: answers(f"http://{u}/v2/health/ready"), 10, "a worker answers")
        for name in options.proxy or ["imagefleet"]:
            steps = results[name] = dict(climb(KINDS[name], upstreams, options))
            for figures in steps.values():
                kinds = ", ".join(f"{count} {word}" for word, count in sorted(figures["outcomes"].items()))
                cells = f"{figures['offered']:.0f} | {figures['goodput']:.1f} | {figures['p99_ms']:.0f} | {kinds}"
                print(f"| {name} | {cells} |", flush=True)
            peak = max(figures["goodput"] for figures in steps.values())
            share = steps[STEPS[-1]]["goodput"] / peak
            print(f"\n{name}: {share:.1%} of its peak at {STEPS[-1]:.0f} times the saturating rate\n", flush=True)
            reached &= share >= GOAL or name != "imagefleet"
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    record(results, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
