"""Tail latency of every policy under uneven work, compared with HAProxy and nginx.

Nine requests in ten take 2 ms, the tenth takes 40 ms, and four workers with one server each are kept
busy to 80 %. Arrivals are Poisson and the same for every row; latency counts from the scheduled
instant.
"""

import argparse
import asyncio
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

SMALL, HEAVY, HEAVY_SHARE, WORKERS, BUSY = 2, 40, 0.1, 4, 0.8
RATE = BUSY * WORKERS * 1e3 / (SMALL * (1 - HEAVY_SHARE) + HEAVY * HEAVY_SHARE)
GOAL = 1.5
POLICIES = ("random", "round-robin", "least-requests", "p2c", "peak-ewma", "inference")


def arrivals(seconds, seed):
    """The same instants and costs for every policy: exponential gaps, one request in ten heavy."""
    rng = random.Random(seed)
    times = list(accumulate(rng.expovariate(RATE) for _ in range(int(RATE * seconds))))
    return [(at, HEAVY if rng.random() < HEAVY_SHARE else SMALL) for at in times]


def request(cost):
    return f"POST /predict?ms={cost} HTTP/1.1\r\nHost: lab\r\nContent-Type: image/png\r\nContent-Length: 5\r\n\r\nhello".encode()


def trial(folder, kind, upstreams, seconds, seed):
    proxy = kind(folder, upstreams).start()
    try:
        load = Load("127.0.0.1", proxy.port, b"", RATE)
        outcomes = asyncio.run(
            load.run_schedule([(at, request(cost)) for at, cost in arrivals(seconds, seed)])
        )
    finally:
        proxy.stop()
    failures = sum(bool(outcome.failure) for outcome in outcomes)
    latencies = sorted(outcome.latency * 1e3 for outcome in outcomes if outcome.scheduled > 1)
    return [latencies[int(len(latencies) * share)] for share in (0.5, 0.9, 0.99)], failures


def variants():
    for policy in POLICIES:
        yield f"imagefleet {policy}", type("Variant", (Imagefleet,), {"extra": ("--policy", policy)})
    for policy in ("random", "leastconn"):
        yield f"haproxy {policy}", type("Variant", (Haproxy,), {"balance": policy})
    for policy in ("random", "least_conn"):
        yield f"nginx {policy}", type("Variant", (Nginx,), {"balance": policy})


def record(results, options):
    """Writes the quantiles of every trial to bench/results."""
    result = Result("policies-timers", command_line(), trials=options.trials, seconds=options.seconds)
    for place, what in enumerate(("median latency", "90th percentile", "99th percentile")):
        for name, trials in results.items():
            result.add(what, name, "ms", [quantiles[place] for quantiles, _ in trials])
    result.write()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--trials", type=int, default=3)
    options = arguments.parse_args()
    ports = [free_port() for _ in range(WORKERS)]
    stub = Path(__file__).with_name("queueing.py")
    workers = [subprocess.Popen([sys.executable, stub, str(port)]) for port in ports]
    upstreams = [f"127.0.0.1:{port}" for port in ports]
    results = {name: [] for name, _ in variants()}
    try:
        for upstream in upstreams:
            wait_until(lambda u=upstream: answers(f"http://{u}/v2/health/ready"), 10, "a worker answers")
        for seed in range(options.trials):
            for name, kind in variants():
                with tempfile.TemporaryDirectory() as folder:
                    results[name].append(trial(folder, kind, upstreams, options.seconds, seed))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    print(
        f"{RATE:.0f} requests/s ({BUSY:.0%} busy), median of {options.trials} trials of {options.seconds:.0f} s\n"
    )
    print("| policy | p50 ms | p90 ms | p99 ms | random's p99 / this | round-robin's / this | failures |")
    print("| --- |" + " ---: |" * 6)
    middle = {
        name: [sorted(q)[len(q) // 2] for q in zip(*(t[0] for t in trials), strict=True)]
        for name, trials in results.items()
    }
    blind = [middle[f"imagefleet {policy}"][2] for policy in ("random", "round-robin")]
    for name, (p50, p90, p99) in middle.items():
        failures = sum(trial[1] for trial in results[name])
        better = " | ".join(f"{other / p99:.2f}" for other in blind)
        print(f"| {name} | {p50:.1f} | {p90:.1f} | {p99:.1f} | {better} | {failures} |")
    record(results, options)
    worst = min(min(blind) / middle[f"imagefleet {policy}"][2] for policy in ("p2c", "inference"))
    print(f"\np2c and inference: at least {worst:.2f} times better than random and round-robin (goal: {GOAL})")
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
