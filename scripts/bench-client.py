#!/usr/bin/env python3
"""How far `client` can be trusted on this machine: false alarms, agreement with its peers, and its ceiling.

    python3 scripts/bench-client.py identical     20 runs of one service: how many of their pairs "differ"?
    python3 scripts/bench-client.py peers         beside wrk and h2load, in turn, on the same service
    python3 scripts/bench-client.py ceiling       how much it can send, closed loop and VALID open loop
    python3 scripts/bench-client.py all           about six minutes; nothing else should run on the machine

Needs release builds (cargo build --release --workspace --bins --example timed_worker); nginx answers for `peers` and
`ceiling`, the balancer's own health page where there is no nginx. Figures go to bench/results.
"""

import argparse
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import record  # noqa: E402

CONNECTIONS = 16


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until_it_answers(url, program):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if program.poll() is not None:
            sys.exit(f"{program.args[0]} ended with {program.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{url} does not answer")


class Programs:
    """What was started, in a folder of its own; ends with the block."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def __enter__(self):
        return self

    def start(self, *words, url, **environment):
        log = open(self.folder / f"{Path(words[0]).name}-{len(self.running)}.log", "w")
        program = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | environment)
        self.running.append(program)
        until_it_answers(url, program)

    def __exit__(self, *_):
        for program in reversed(self.running):
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def client(args, *words):
    """Runs a client command; returns what it prints as JSON, and the processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([args.bin / "client", "--log", "error", *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not done.stdout.startswith(("{", "[")):
        sys.exit(f"client {' '.join(map(str, words))}: {done.stderr}")
    return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def identical(args, folder, result):
    """Runs of one unchanged service: two timed workers behind the balancer, about half busy."""
    with Programs(folder) as programs:
        workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        for address in workers:
            words = [args.bin / "examples/timed_worker", "serve", "--listen", address]
            programs.start(*words, url=f"http://{address}/v2/health/ready", TIMED_WORKER="lognormal:8ms:0.5")
        target = f"http://127.0.0.1:{free_port()}"
        listed = [word for address in workers for word in ("--worker", address)]
        words = [args.bin / "balancer", "--listen", target.removeprefix("http://"), "--admin", f"127.0.0.1:{free_port()}"]
        programs.start(*words, *listed, url=f"{target}/v2/health/ready")
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


def fast_service(programs, folder, args):
    """Something that answers at once."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    if nginx := shutil.which("nginx"):
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; error_log stderr crit; worker_processes 2;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;\n"
            f"  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            f"  server {{ listen 127.0.0.1:{port} reuseport; http2 on; location / {{ return 200 'ok'; }} }} }}\n"
        )
        if subprocess.run([nginx, "-t", "-c", folder / "nginx.conf"], capture_output=True, check=False).returncode:
            # Before 1.25.1 HTTP/2 was switched on elsewhere, and not beside HTTP/1.
            text = (folder / "nginx.conf").read_text().replace("http2 on; ", "")
            (folder / "nginx.conf").write_text(text)
        programs.start(nginx, "-c", folder / "nginx.conf", url=url)
        return url, "/"
    worker = f"127.0.0.1:{free_port()}"
    programs.start(args.bin / "examples/timed_worker", "serve", "--listen", worker, url=f"http://{worker}/v2/health/ready",
                   TIMED_WORKER="const:1ms")
    words = [args.bin / "balancer", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"]
    programs.start(*words, "--worker", worker, url=f"{url}v2/health/live")
    return url, "/v2/health/live"


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * UNITS[unit]


def wrk(url, seconds):
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    at = dict(re.findall(r"^\s+(50|99)%\s+([\d.]+\w+)", text, re.MULTILINE))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return rate, milliseconds(at["50"]), milliseconds(at["99"])


def h2load(url, seconds):
    log = tempfile.NamedTemporaryFile()
    words = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-D{seconds}", f"--log-file={log.name}", url]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"finished in .*?, ([\d.]+) req/s", text)[1])
    times = sorted(int(line.split()[2]) / 1e3 for line in Path(log.name).read_text().splitlines())
    return rate, times[len(times) // 2], times[len(times) * 99 // 100]


def ours(args, url, path, seconds, folder, number):
    words = ["load", "--target", url, "--get", path, "--arrivals", "closed", "--users", str(CONNECTIONS), "--threads", "1",
             "--warm-up", "0s", "--duration", f"{seconds}s", "--keep-samples", "1000", "--json", "--out", folder / f"closed-{number}"]
    summary, spent = client(args, *words)
    times = summary["latency_ms"]
    return (summary["throughput"], times["p50"], times["p99"]), spent / summary["measured_seconds"]


def peers(args, folder, result):
    """The same closed loop by each of them in turn, so that a slow minute is slow for all."""
    with Programs(folder) as programs:
        url, path = fast_service(programs, folder, args)
        tools = {name: run for name, run in (("wrk", wrk), ("h2load", h2load)) if shutil.which(name)}
        found = {name: [] for name in ["client", *tools]}
        for number in range(args.rounds):
            found["client"].append(ours(args, url, path, args.seconds // 2, folder, f"peers-{number}")[0])
            for name, run in tools.items():
                found[name].append(run(url.rstrip("/") + path, args.seconds // 2))
    for place, (what, unit) in enumerate([("throughput", "/s"), ("p50", "ms"), ("p99", "ms")]):
        for name, values in found.items():
            result.add(f"{what} of {CONNECTIONS} connections", name, unit, [value[place] for value in values])
        for name in tools:
            ratios = [mine[place] / theirs[place] for mine, theirs in zip(found["client"], found[name])]
            print(f"{what}: client over {name} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
            result.add(f"{what}, client over the peer", name, "x", ratios)


def ceiling(args, folder, result):
    """What it can send. Generator and service share the cores, so the processor time of the first is told."""
    with Programs(folder) as programs:
        url, path = fast_service(programs, folder, args)
        rates, per_core = [], []
        for number in range(args.rounds):
            (rate, _, _), busy = ours(args, url, path, args.seconds // 2, folder, f"ceiling-{number}")
            rates.append(rate)
            per_core.append(rate / busy)
        result.add("closed loop, one thread", "client", "/s", rates)
        result.add("closed loop, requests per second of processor time", "client", "/s", per_core)
        print(f"closed loop: {statistics.median(rates):.0f}/s, {statistics.median(per_core):.0f} per second of processor time")
        best = 0
        for rate in range(10_000, 200_001, 10_000):
            words = ["load", "--target", url, "--get", path, "--rate", str(rate), "--warm-up", "1s",
                     "--duration", f"{max(3, args.seconds // 2)}s", "--keep-samples", "1000"]
            tries = (client(args, *words, "--json", "--out", folder / f"open-{rate}-{turn}")[0] for turn in range(2))
            if not any(summary["verdict"]["is_valid"] for summary in tries):
                break
            best = rate
        print(f"open loop: VALID up to {best}/s")
        result.add("highest valid rate of an open loop", "client", "/s", [best])


PARTS = {"identical": identical, "peers": peers, "ceiling": ceiling}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--runs", type=int, default=20, help="identical runs")
    parser.add_argument("--seconds", type=int, default=8, help="length of a run")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each tool")
    args = parser.parse_args()
    command = "python3 " + " ".join(["scripts/bench-client.py", *sys.argv[1:]])
    for name in PARTS if args.part == "all" else [args.part]:
        settings = {"runs": args.runs, "seconds": args.seconds, "rounds": args.rounds}
        result = record.Result(f"client-{name}", command, **settings)
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](args, Path(folder), result)
        result.write()


if __name__ == "__main__":
    main()
