"""What 10,000 clients that stay connected after one request cost in memory: the balancer, HAProxy and nginx.

    python3 scripts/proxylab/idle.py                     a minute; figures go to bench/results
    python3 scripts/proxylab/idle.py --clients 2000      a quick look

Each proxy is started afresh for each round, has one thread, and forwards one small GET per client. Its resident
memory is read three seconds after the last answer; the peak is the kernel's figure.
"""

import argparse
import re
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import Result, command_line
from proxies import Haproxy, Imagefleet, Nginx, free_port, run, trivial_upstreams, version

CLIENTS = 10_000
IDLE = 3
REQUEST = b"GET /v2/models/m HTTP/1.1\r\nHost: fleet\r\n\r\n"


class RoomyNginx(Nginx):
    connections = 2 * CLIENTS


def megabytes(proxy, field):
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in proxy.pids())
    return sum(int(re.search(rf"{field}:\s+(\d+)", text)[1]) for text in texts) * 1024 / 1e6


def costs(proxy, clients):
    """The proxy's memory when all of its clients are idle, and its peak until then."""
    connections = []
    try:
        for _ in range(clients):
            connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
            connections.append(connection)
            connection.sendall(REQUEST)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{proxy.name} did not answer client {len(connections)}")
        time.sleep(IDLE)
        return megabytes(proxy, "VmRSS"), megabytes(proxy, "VmHWM")
    finally:
        for connection in connections:
            connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # HAProxy takes half of them for its clients.
    wanted = 2 * options.clients + 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except ValueError:
        sys.exit(f"{options.clients} clients need {wanted} open files, and only {hard} are allowed (ulimit -n)")
    kinds = (Imagefleet, RoomyNginx, Haproxy)
    versions = {"HAProxy": version(["haproxy", "-v"]), "nginx": version(["nginx", "-v"])}
    result = Result("idle-connections", command_line(), clients=options.clients, threads=1, rounds=options.rounds, **versions)
    found = {kind.name: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = free_port()
        upstream = trivial_upstreams(folder, [port])
        try:
            for _ in range(options.rounds):
                for kind in kinds:
                    proxy = kind(folder, [f"127.0.0.1:{port}"])
                    try:
                        found[kind.name].append(costs(proxy.start(), options.clients))
                    finally:
                        proxy.stop()
        finally:
            upstream.terminate()
            upstream.wait()
    for place, what in enumerate((f"memory {IDLE} s after the last answer", "memory at its peak")):
        for name, runs in found.items():
            result.add(what, name, "MB", [run[place] for run in runs])
        told = ", ".join(f"{name} {statistics.median(run[place] for run in runs):.1f} MB" for name, runs in found.items())
        print(f"{what}: {told}")
    result.write()


if __name__ == "__main__":
    run(main)
