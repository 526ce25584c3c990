"""Tail latency of the policies under mixed sizes, with workers that compute.

A slice of four workers, each running MobileNetV2 on a quarter of a core, one photo at a time: nine requests in
ten contain one photo, the tenth contains twenty, in an order drawn once. The cost of a request in an open loop that
the workers keep up with easily gives the rate that would keep them busy. Each policy then gets the same Poisson
arrivals at 80 % of that rate; policies are switched in the running balancer, in a different order in every trial.
Quantiles are over all requests of a policy's trials, since one trial alone has few beyond its p99. Needs root and
`cargo build --release`.
"""

import argparse
import base64
import csv
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from proxies import BIN, cpu_seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from record import Result, command_line  # noqa: E402

POLICIES = ("random", "round-robin", "p2c", "inference")
BLIND, GOAL = POLICIES[:2], 1.5
WORKERS = 4
BODIES, HEAVY_SHARE, HEAVY, BUSY = 1000, 0.1, 20, 0.8
ROUTE = "/v1/models/mobilenet_v2:predict"


def bodies(photo):
    """Lines of JSON: predictions of one photo, and of twenty at places drawn at random."""
    rng = random.Random(1)
    instance = json.dumps({"b64": base64.b64encode(photo).decode()})
    line = {n: '{"instances": [%s]}\n' % ", ".join([instance] * n) for n in (1, HEAVY)}
    heavy = set(rng.sample(range(BODIES), int(BODIES * HEAVY_SHARE)))
    return "".join(line[HEAVY if number in heavy else 1] for number in range(BODIES))


def one_at_a_time(models, copy):
    """A repository with the photo model, without batching: twenty photos take twenty times as long."""
    shutil.copytree(models / "mobilenet_v2", copy / "mobilenet_v2")
    for manifest in copy.glob("*/*/model.toml"):
        manifest.write_text(re.sub(r"(?m)^max_batch_size = .*", "max_batch_size = 1", manifest.read_text()))
    return copy


class Run:
    """What one run of the load generator left in its folder."""

    def __init__(self, folder):
        self.summary = json.loads((folder / "summary.json").read_text())
        self.throughput = self.summary["throughput"]
        with (folder / "samples.csv").open() as file:
            counted = [row for row in csv.DictReader(file) if row["warm_up"] == "false"]
        self.latencies = [float(row["latency_ms"]) for row in counted if row["outcome"] == "200"]
        self.failures = len(counted) - len(self.latencies)
        if not self.latencies:
            raise RuntimeError(f"{folder}: none of {len(counted)} requests succeeded")


def quantile(latencies, share):
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(latencies)[math.ceil(share * len(latencies)) - 1]


class Slice:
    """Four workers, a balancer and a client in network namespaces, until `close`."""

    def __init__(self, folder, models, cpus):
        self.client = str(BIN / "client")
        self.folder, self.runs = Path(folder), []
        rspec = self.folder / "four.rspec"
        rspec.write_text(self.call("slice", "rspec", "--workers", str(WORKERS)))
        self.flags = ["--name", "policies", "--rspec", rspec, "--worker-cpus", cpus, "--models"]
        self.flags.append(one_at_a_time(models, self.folder / "models"))
        # What is compared is where requests wait, so none may wait in the balancer.
        os.environ["BALANCER_MAX_IN_FLIGHT"] = "100000"
        self.call("slice", "run", *self.flags)

    def call(self, *arguments, check=True):
        command = [self.client, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def policy(self, name):
        url = f"http://127.0.0.1:9900/fleet/policy?name={name}"
        post = ["curl", "--silent", "--show-error", "--fail", "--request", "POST", url]
        self.call("slice", "exec", "--name", "policies", "balancer", "--", *post)

    def load(self, *flags):
        out = self.folder / str(len(self.runs) + 1)
        sent = ["--workload", self.folder / "bodies.jsonl", "--route", ROUTE, "--out", out, "--json"]
        # The command fails on a verdict of INVALID; what counts here is in the summary.
        warm_up = [] if "--warm-up" in flags else ["--warm-up", "5s"]
        command = ["load", "--log", "warn", *warm_up, *sent, *flags]
        self.call("slice", "run", *self.flags, "--", *command, check=False)
        self.runs.append(Run(out))
        return self.runs[-1]

    def worker_seconds(self):
        """Processor time of all workers so far."""
        spaces = [f"fleet.policies.server{number + 1}" for number in range(WORKERS)]
        found = (subprocess.run(["ip", "netns", "pids", one], capture_output=True, text=True, check=True).stdout for one in spaces)
        return cpu_seconds([int(pid) for pids in found for pid in pids.split()])

    def close(self):
        self.call("slice", "down", "--name", "policies", check=False)


def capacity(slice_, options):
    """Requests per second that would keep the workers busy. A closed loop would report more: with work for both
    processors at any time, a quota is exceeded by what each of them was granted in advance."""
    slice_.policy("p2c")
    most = slice_.load("--arrivals", "closed", "--users", "64", "--duration", "15s").throughput
    before = slice_.worker_seconds()
    run = slice_.load("--rate", f"{most / 3:.2f}", "--duration", "30s", "--warm-up", "0s")
    spent = slice_.worker_seconds() - before
    return WORKERS * options.cpus * len(run.latencies) / spent


def measure(slice_, options):
    """Latencies in milliseconds and failures of all trials, by policy."""
    full = capacity(slice_, options)
    rate = BUSY * full
    print(f"capacity {full:.1f}/s, so {rate:.1f}/s are sent", flush=True)
    latencies, failures = {policy: [] for policy in POLICIES}, dict.fromkeys(POLICIES, 0)
    for trial in range(options.trials):
        for policy in POLICIES[trial % len(POLICIES) :] + POLICIES[: trial % len(POLICIES)]:
            slice_.policy(policy)
            run = slice_.load("--rate", f"{rate:.2f}", "--seed", trial + 1, "--duration", f"{options.seconds}s")
            latencies[policy] += run.latencies
            failures[policy] += run.failures
            p50, p99 = (quantile(run.latencies, share) for share in (0.5, 0.99))
            print(f"trial {trial + 1} {policy}: p50 {p50:.0f} ms, p99 {p99:.0f} ms", flush=True)
    return latencies, failures


def record(latencies, runs):
    """Writes the quantiles over all trials of a policy to bench/results."""
    requests = f"{len(latencies['random']):,}"
    result = Result("policies", command_line(), requests_per_policy=requests)
    result.judge(run.summary for run in runs)
    for what, share in (("median latency", 0.5), ("99th percentile", 0.99)):
        for policy, values in latencies.items():
            result.add(what, policy, "ms", [quantile(values, share)])
    result.write()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("photo", type=Path)
    arguments.add_argument("--models", type=Path, default=Path("models"))
    arguments.add_argument("--cpus", type=float, default=0.25, help="of each worker")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--trials", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bodies.jsonl").write_text(bodies(options.photo.read_bytes()))
        slice_ = Slice(folder, options.models.resolve(), options.cpus)
        try:
            latencies, failures = measure(slice_, options)
        finally:
            slice_.close()
    print("\n| policy | p50 ms | p99 ms | random's p99 / this | round-robin's / this | failures |")
    print("| --- |" + " ---: |" * 5)
    tail = {policy: quantile(values, 0.99) for policy, values in latencies.items()}
    for policy, p99 in tail.items():
        p50 = quantile(latencies[policy], 0.5)
        better = " | ".join(f"{tail[other] / p99:.2f}" for other in BLIND)
        print(f"| {policy} | {p50:.0f} | {p99:.0f} | {better} | {failures[policy]} |")
    record(latencies, slice_.runs)
    worst = min(tail[other] / tail[policy] for other in BLIND for policy in POLICIES[2:])
    requests = len(latencies["random"])
    print(f"\n{requests} requests per policy; p2c and inference: at least {worst:.2f} times better (goal: {GOAL})")
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
