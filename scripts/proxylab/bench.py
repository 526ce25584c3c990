"""CPU time per request and tail latency of the balancer, HAProxy and nginx, in one interleaved run.

CPU time per request (user and system time of the proxy / requests) is the figure that holds on a
shared machine: a proxy that takes half the time serves twice the requests from the same core. The
proxy has one core for itself; the load generator and the upstreams share another.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from proxies import Haproxy, Imagefleet, Nginx, cpu_seconds, free_port, kernel_seconds, trivial_upstreams, version

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from record import Result, command_line  # noqa: E402



class Released(Imagefleet):
    """The balancer as scripts/release-build.sh builds it."""

    name = "imagefleet as released"


class Logging(Imagefleet):
    """The balancer with an access log. Without the flag it writes none, and neither do the others."""

    name = "imagefleet with an access log"


CONNECTIONS = 64
GET, POST = "small GET", "POST of 20 KB"
UNITS = {"us": 1e-3, "ms": 1, "s": 1e3}


def lua(folder, workload, pause_ms):
    """A wrk script: the request, and the mean pause of a connection between two requests."""
    lines = ['wrk.path = "/v2/models/m"']
    if workload == POST:
        lines = ['wrk.path = "/predict"', 'wrk.method = "POST"', 'wrk.body = string.rep("x", 20000)']
        lines.append('wrk.headers["Content-Type"] = "image/jpeg"')
    if pause_ms:
        lines.append(f"function delay() return math.floor({pause_ms:.3f} * 2 * math.random() + 0.5) end")
    path = folder / "request.lua"
    path.write_text("\n".join(lines) + "\n")
    return path


def drive(folder, proxy, workload, seconds, pause_ms=0):
    """One run of wrk: requests/s, p99 in ms, CPU microseconds per request, and the kernel's share of them."""
    before, (kernel_before, all_before) = cpu_seconds(proxy.pids()), kernel_seconds(proxy.pids())
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s"]
    command += [str(lua(folder, workload, pause_ms)), f"http://{proxy.address}/"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent, (kernel, all_of_it) = cpu_seconds(proxy.pids()) - before, kernel_seconds(proxy.pids())
    share = 100 * (kernel - kernel_before) / max(all_of_it - all_before, 0.01)
    requests = int(re.search(r"(\d+) requests in", output)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = re.search(r"Socket errors: (.*)", output)
    if failed or errors:
        raise RuntimeError(f"{proxy.name}: {(failed or errors)[0]}")
    return {"rate": rate, "p99_ms": float(p99[1]) * UNITS[p99[2]], "cpu_us": spent / requests * 1e6, "kernel": share}


def at_rate(folder, proxy, rate, seconds, pauses):
    """p99 of small GETs at `rate`, within 2 %: half a burst more or less is all that the tail shows. The pause that
    gave it goes into `pauses`, as the start of the next run of this proxy."""
    for _ in range(6):
        pause = pauses.setdefault(proxy, CONNECTIONS / rate * 1e3)
        run = drive(folder, proxy, GET, seconds, pause)
        pauses[proxy] = max(pause + CONNECTIONS * 1e3 * (1 / rate - 1 / run["rate"]), 0.01)
        if abs(run["rate"] / rate - 1) < 0.02:
            break
    return run


def measure(folder, proxies, rounds, seconds):
    runs = {(proxy.name, load): [] for proxy in proxies for load in (GET, POST, "paced")}
    for _ in range(rounds):
        for workload in (GET, POST):
            for proxy in proxies:
                runs[proxy.name, workload].append(drive(folder, proxy, workload, seconds))
    peak = statistics.median(run["rate"] for run in runs["haproxy", GET])
    pauses = {}
    for _ in range(rounds):
        for proxy in proxies:
            runs[proxy.name, "paced"].append(at_rate(folder, proxy, 0.7 * peak, seconds, pauses))
    return runs, peak


def table(runs, peak, names):
    def middle(name, load, figure):
        return statistics.median(run[figure] for run in runs[name, load])

    pairs = [(own, peer) for own in names if own in (Imagefleet.name, Released.name) for peer in ("nginx", "haproxy")]
    yield "| | " + " | ".join([*names, *(" / ".join(pair) for pair in pairs)]) + " |"
    yield "| --- |" + " ---: |" * (len(names) + len(pairs))
    rows = [(f"CPU per {load}, us", load, "cpu_us") for load in (GET, POST)]
    rows += [(f"peak rate, {load}, 1/s", load, "rate") for load in (GET, POST)]
    rows += [(f"p99 near {0.7 * peak:.0f}/s, ms", "paced", "p99_ms"), ("rate there, 1/s", "paced", "rate")]
    for title, load, figure in rows:
        found = {name: middle(name, load, figure) for name in names}
        digits = 0 if figure == "rate" else 2
        cells = [f"{value:.{digits}f}" for value in found.values()]
        cells += [f"{found[own] / found[peer]:.2f}" for own, peer in pairs]
        yield f"| {title} | " + " | ".join(cells) + " |"


def record(runs, options, names):
    """Writes every run to bench/results."""
    names = {name: name for name in names} | {"haproxy": "HAProxy"}
    versions = {"HAProxy": version(["haproxy", "-v"]), "nginx": version(["nginx", "-v"])}
    result = Result("proxies", command_line(), **versions, threads=1, rounds=options.rounds)
    for what, load, figure, unit in (
        (f"processor time per {GET}", GET, "cpu_us", "µs"),
        (f"processor time per {POST}", POST, "cpu_us", "µs"),
        (f"share of the kernel in it, {GET}", GET, "kernel", "%"),
        (f"share of the kernel in it, {POST}", POST, "kernel", "%"),
        (f"peak rate, {GET}", GET, "rate", "/s"),
        (f"peak rate, {POST}", POST, "rate", "/s"),
        ("99th percentile at 70 % of HAProxy's peak rate", "paced", "p99_ms", "ms"),
    ):
        for name, of in names.items():
            result.add(what, of, unit, [run[figure] for run in runs[name, load]])
    result.write()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3, help="of one run of wrk")
    arguments.add_argument("--json", type=Path, help="also write every run there")
    arguments.add_argument("balancer", nargs="*", help="flags for the balancer, after --")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Imagefleet.extra = options.balancer
        Released.extra = options.balancer
        # The folder that scripts/release-build.sh printed.
        Released.programs = Path(os.environ["RELEASED_PROGRAMS"]).resolve() if "RELEASED_PROGRAMS" in os.environ else None
        Logging.extra = ["--access-log", str(folder / "access.log"), *options.balancer]
        ports = [free_port(), free_port()]
        upstream = trivial_upstreams(folder, ports, pin=1)
        contenders = [Imagefleet, *([Released] if Released.programs else []), Logging, Nginx, Haproxy]
        names = [kind.name for kind in contenders]
        proxies = []
        try:
            for kind in contenders:
                proxies.append(kind(folder, [f"127.0.0.1:{port}" for port in ports], pin=0).start())
            runs, peak = measure(folder, proxies, options.rounds, options.seconds)
        finally:
            for proxy in proxies:
                proxy.stop()
            upstream.terminate()
            upstream.wait()
    print(f"HAProxy {version(['haproxy', '-v'])}, nginx {version(['nginx', '-v'])}, one thread each;")
    print(
        f"medians of {options.rounds} interleaved runs of {options.seconds} s, {CONNECTIONS} connections, two upstreams\n"
    )
    print("\n".join(table(runs, peak, names)))
    record(runs, options, names)
    if options.json:
        options.json.write_text(json.dumps({" ".join(key): value for key, value in runs.items()}, indent=1))


if __name__ == "__main__":
    main()
