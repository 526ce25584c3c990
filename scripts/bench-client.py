#!/usr/bin/env python3
"""How far `client` can be trusted on this machine: false alarms, agreement with its peers, and its ceiling.

    python3 scripts/bench-client.py identical     20 runs of one service: how many of their pairs "differ"?
    python3 scripts/bench-client.py peers         compared with wrk and h2load, in turn, on one service that queues
    python3 scripts/bench-client.py ceiling       how much it can send to the simplest possible service
    python3 scripts/bench-client.py simulator     how many requests `simulate` handles per second, and what `plan` finds
    python3 scripts/bench-client.py all           about seven minutes; nothing else should run on the machine

Needs release builds (cargo build --release --workspace --bins --examples), and wrk and h2load (packages wrk and
nghttp2-client) for the comparison. Figures go to bench/results.
"""

import argparse
import csv
import itertools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import record  # noqa: E402
from programs import Programs, client, free_port  # noqa: E402
from wrk import corrected  # noqa: E402

CONNECTIONS = 64


def timed_fleet(args, programs, count, service):
    """A balancer in front of workers that compute nothing and take `service` for each request."""
    workers = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    for address in workers:
        words = [args.bin / "examples/timed_worker", "serve", "--listen", address]
        programs.start(*words, url=f"http://{address}/v2/health/ready", TIMED_WORKER=service)
    target = f"http://127.0.0.1:{free_port()}"
    listed = [word for address in workers for word in ("--worker", address)]
    words = [args.bin / "balancer", "--listen", target.removeprefix("http://"), "--admin", f"127.0.0.1:{free_port()}"]
    programs.start(*words, *listed, url=f"{target}/v2/health/ready")
    return target


def identical(args, folder, result):
    """Runs of one unchanged service: two timed workers behind the balancer, about half busy."""
    with Programs(folder) as programs:
        target = timed_fleet(args, programs, 2, "lognormal:8ms:0.5")
        runs, summaries = [], []
        for number in range(args.runs):
            out = folder / f"run-{number}"
            words = ["load", "--target", target, "--rate", "120", "--duration", f"{args.seconds + 1}s", "--warm-up", "1s"]
            summary, _ = client(args, *words, "--seed", str(number + 1), "--json", "--out", out)
            runs.append(out)
            summaries.append(summary)
            print(f"run {number + 1}: {summary['requests']} requests, p50 {summary['latency_ms']['p50']:.2f} ms", flush=True)
    result.judge(summaries)
    found = {}
    for one, other in itertools.combinations(range(len(runs)), 2):
        (difference,), _ = client(args, "report", runs[one], runs[other], "--json")
        found[one, other] = difference["finding"]
    alarms = [pair for pair, finding in found.items() if finding not in ("no-difference", "too-few")]
    neighbours = [pair for pair in alarms if pair[1] - pair[0] == 1]
    print(f"{len(alarms)} of {len(found)} pairs differ, {len(neighbours)} of {len(runs) - 1} neighbours")
    result.add("pairs of identical runs that are called different", "client report", "%", [100 * len(alarms) / len(found)])
    result.add("neighbours of identical runs that are called different", "client report", "%",
               [100 * len(neighbours) / (len(runs) - 1)])


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * UNITS[unit]


def wrk(url, connections, seconds):
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    at = dict(re.findall(r"^\s+(50|99)%\s+([\d.]+\w+)", text, re.MULTILINE))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return rate, milliseconds(at["50"]), milliseconds(at["99"])


def h2load(url, connections, seconds):
    log = tempfile.NamedTemporaryFile()
    words = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds}", f"--log-file={log.name}", url]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"finished in .*?, ([\d.]+) req/s", text)[1])
    times = sorted(int(line.split()[2]) / 1e3 for line in Path(log.name).read_text().splitlines())
    return rate, times[len(times) // 2], times[len(times) * 99 // 100]


def ours(args, target, path, connections, out, threads=1, samples=1000):
    """The figures that wrk and h2load report, and the processor time per second of the run."""
    words = ["load", "--target", target, "--get", path, "--arrivals", "closed", "--users", str(connections)]
    words += ["--threads", str(threads), "--warm-up", "0s", "--duration", f"{args.seconds // 2}s"]
    words += ["--keep-samples", str(samples), "--json", "--out", out]
    summary, spent = client(args, *words)
    times = summary["latency_ms"]
    return (summary["throughput"], times["p50"], times["p99"]), spent / summary["measured_seconds"]


def as_wrk_counts(out, connections, seconds):
    """p50 and p99 of a run as wrk would report them."""
    with (out / "samples.csv").open() as file:
        times = corrected([float(row["latency_ms"]) for row in csv.DictReader(file)], connections, seconds)
    return times[len(times) // 2], times[len(times) * 99 // 100]


def least(args, url, connections, seconds):
    """The rate of a loop that makes only the system calls that every generator must make, and ignores the answers."""
    address = url.removeprefix("http://").rstrip("/")
    words = [args.bin / "examples/least_client", address, str(connections), str(seconds)]
    return (float(subprocess.run(words, capture_output=True, text=True, check=True).stdout),)


def in_turn(args, folder, result, target, path, more=None, samples=1000):
    """The same closed loop by each tool in turn, so that a slow minute is slow for all."""
    tools = {name: run for name, run in (("wrk", wrk), ("h2load", h2load)) if shutil.which(name)} | (more or {})
    found, busy = {name: [] for name in ["client", *tools]}, []
    for number in range(args.rounds):
        seen, spent = ours(args, target, path, CONNECTIONS, folder / f"turn-{number}", samples=samples)
        found["client"].append(seen)
        busy.append(spent)
        for name, run in tools.items():
            found[name].append(run(target + path, CONNECTIONS, args.seconds // 2))
    for place, (what, unit) in enumerate([("throughput", "/s"), ("p50", "ms"), ("p99", "ms")]):
        # Not every tool reports all three.
        told = {name: values for name, values in found.items() if place < len(values[0])}
        for name, values in told.items():
            result.add(f"{what}, {CONNECTIONS} connections", name, unit, [value[place] for value in values])
        for name in list(told)[1:]:
            compare(result, f"{what}, client over the peer", name, place, found["client"], found[name])
    return [rate / spent for (rate, _, _), spent in zip(found["client"], busy)], found


def compare(result, what, name, place, mine, theirs):
    ratios = [own[place] / other[place] for own, other in zip(mine, theirs)]
    print(f"{what} ({name}): {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    result.add(what, name, "x", ratios)


def peers(args, folder, result):
    """Do the tools see the same service? It queues, so what they report is compared, not how fast they are."""
    with Programs(folder) as programs:
        target = timed_fleet(args, programs, 4, "lognormal:1ms:0.5")
        _, found = in_turn(args, folder, result, target, "/v2/models/mnist", samples=1_000_000)
        if "wrk" in found:
            outs = [folder / f"turn-{number}" for number in range(args.rounds)]
            mine = [(None, *as_wrk_counts(out, CONNECTIONS, args.seconds // 2)) for out in outs]
            for place, what in (1, "p50"), (2, "p99"):
                compare(result, f"{what}, client over the peer, both as wrk counts", "wrk", place, mine, found["wrk"])


def ceiling(args, folder, result):
    """How much it can send. Generator and service share the cores, so the generator's processor time is reported."""
    with Programs(folder) as programs:
        address = f"127.0.0.1:{free_port()}"
        target = f"http://{address}"
        programs.start(args.bin / "examples/trivial_server", address, url=target)
        per_core, _ = in_turn(args, folder, result, target, "/", {"system calls alone": partial(least, args)})
        result.add("requests per second of processor time", "client", "/s", per_core)
        rates = [ours(args, target, "/", CONNECTIONS, folder / f"two-{number}", threads=2)[0][0] for number in range(args.rounds)]
        result.add(f"throughput, {CONNECTIONS} connections, two threads", "client", "/s", rates)
        print(f"closed loop, two threads: {statistics.median(rates):.0f}/s")
        for threads, words in (1, "one thread"), (2, "two threads"):
            best = highest_valid(args, folder, target, threads)
            print(f"open loop, {words}: VALID up to {best}/s")
            result.add(f"highest valid rate of an open loop, {words}", "client", "/s", [best])


def highest_valid(args, folder, target, threads):
    """The highest rate, in steps of 10,000, at which one of two runs is VALID."""
    best = 0
    for rate in range(10_000, 200_001, 10_000):
        words = ["load", "--target", target, "--get", "/", "--rate", str(rate), "--warm-up", "1s", "--threads", str(threads),
                 "--duration", f"{max(3, args.seconds // 2)}s", "--keep-samples", "1000"]
        outs = (folder / f"open-{threads}-{rate}-{turn}" for turn in range(2))
        if not any(client(args, *words, "--json", "--out", out)[0]["verdict"]["is_valid"] for out in outs):
            break
        best = rate
    return best


SIMULATED = 2_000_000
PLANNED, BOUND = 100_000, "50ms"


def simulator(args, _folder, result):
    """What a simulation costs, by number of workers, and how many workers a large plan finds, by policy."""
    for workers in (4, 10_000):
        rates = []
        for _ in range(args.rounds):
            words = ["simulate", "--workers", str(workers), "--policy", "p2c", "--requests", str(SIMULATED), "--json"]
            begun = time.monotonic()
            client(args, *words)
            rates.append(SIMULATED / (time.monotonic() - begun) / 1e6)
        print(f"simulated with {workers} workers: {statistics.median(rates):.1f} million requests per second")
        result.add(f"simulated requests, {workers:,} workers", "client simulate", "million/s", rates)
    plans, _ = client(args, "plan", "--rate", str(PLANNED), "--p99", BOUND, "--json")
    for plan in plans:
        print(f"workers for {PLANNED}/s within {BOUND} under {plan['policy']}: {plan['workers']}")
        result.add(f"workers for {PLANNED:,}/s within {BOUND}", plan["policy"], "", [plan["workers"]])


PARTS = {"identical": identical, "peers": peers, "ceiling": ceiling, "simulator": simulator}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--runs", type=int, default=20, help="identical runs")
    parser.add_argument("--seconds", type=int, default=8, help="length of a run")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each tool")
    args = parser.parse_args()
    for name in PARTS if args.part == "all" else [args.part]:
        settings = {"runs": args.runs, "seconds": args.seconds, "rounds": args.rounds}
        result = record.Result(f"client-{name}", record.command_line(), **settings)
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](args, Path(folder), result)
        result.write()


if __name__ == "__main__":
    main()
