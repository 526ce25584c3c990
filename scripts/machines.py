"""The machines of an RSpec, each with its own systemd, and what a client loses during operations on them.

    sudo .venv/bin/python scripts/machines.py                       six machines, target/release
    sudo .venv/bin/python scripts/machines.py --programs target/debug --rate 100

Boots Debian for each node (debootstrap and systemd-nspawn), connects the nodes by links with the RSpec's
addresses, runs the RSpec's own install command on each, uploads a picture from the machine of the
client, measures round-trip times and scaling there, and then restarts, kills and upgrades every part at
a steady rate of requests. Prints a table and writes its figures to bench/results; afterwards all but the
Debian that the machines boot is removed. `.venv` is made by scripts/test.sh.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
# Last in the path, because a module there has the same name as one of the others.
sys.path.append(str(ROOT / "bench"))

import pytest  # noqa: E402
from fleet import eventually  # noqa: E402
from machines import Load, Slice, skip_without_machines, two_releases  # noqa: E402
from pictures import digit, encode  # noqa: E402
from record import Result, command_line  # noqa: E402


# Time limit of an experiment, in seconds.
LONG = 900


def nothing(fleet, load):
    load.wait(1000)


def restart_balancer(fleet, load):
    fleet.hub.run("systemctl", "restart", "imagefleet-balancer")


def kill_balancer(fleet, load):
    process = fleet.hub.process("imagefleet-balancer")
    fleet.hub.run("sh", "-c", f"kill -9 {process}")
    eventually(lambda: fleet.hub.process("imagefleet-balancer") not in (0, process), 30, "it is back")


def upgrade_balancer(fleet, load):
    fleet.upgrade(fleet.hub, "1.1.0", "balancer")


def each_worker(change):
    def changes(fleet, load):
        for worker in fleet.workers:
            change(fleet, worker)
            load.wait(100)
            fleet.wait_for_all()

    return changes


def systemctl(*words):
    return lambda _, worker: worker.run("systemctl", *words, "imagefleet-worker")


def upgrade_worker(fleet, worker):
    fleet.upgrade(worker, "1.1.0", "worker", "--no-pull")


STEPS = [
    ("nothing", nothing),
    ("`systemctl restart` of the balancer", restart_balancer),
    ("`systemctl restart` of each worker in turn", each_worker(systemctl("restart"))),
    ("`kill -9` of each worker in turn", each_worker(systemctl("kill", "--signal=SIGKILL"))),
    ("new program and new weights on each worker", each_worker(upgrade_worker)),
    ("new program of the balancer", upgrade_balancer),
    ("`kill -9` of the balancer", kill_balancer),
]


def shown(value):
    return "" if value is None else f"{value:.0f}"


def work_on(fleet, rate, result):
    print(f"| at {rate} requests per second | requests | lost | p50 ms | p99 ms | slowest ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, change in STEPS:
        with Load(fleet, rate) as load:
            change(fleet, load)
            load.wait(200)
        fleet.wait_for_all()
        lost = ", ".join(f"{count} {outcome}" for outcome, count in load.lost().items()) or "0"
        times = [shown(load.summary["latency_ms"][key]) for key in ("p50", "p99", "max")]
        print(f"| {name} | {load.summary['requests']} | {lost} | {' | '.join(times)} |", flush=True)
        result.add(name, "requests", "", [load.summary["requests"]])
        result.add(name, "lost", "", [sum(load.lost().values())])
        for key, of in (("p50", "median"), ("p99", "99 % within"), ("max", "slowest")):
            if load.summary["latency_ms"][key] is not None:
                result.add(name, of, "ms", [load.summary["latency_ms"][key]])


def measure(fleet, result):
    client = ["imagefleet-client"]
    target = ["--target", fleet.url]
    servers = ",".join(str(2**n) for n in range(4) if 2**n <= len(fleet.workers))
    print(fleet.client.run(*client, "rtt", *target, "--repeat", 20, "--out", "/tmp/rtt", limit=LONG))
    for line in findings(fleet, "rtt")["lines"]:
        if line["rtt_ms"] and line["rtt_ms"]["p50"] and not line["stripped"]:
            what = f"round trip of a picture of {line['bytes']} bytes"
            result.add(what, "median", "ms", [line["rtt_ms"]["p50"]])
    short = ["--waits", "0.1,0.01", "--duration", "5s", "--requests", 500]
    print(fleet.client.run(*client, "scaling", *target, "--servers", servers, *short, "--out", "/tmp/scaling", limit=LONG))
    for cell in findings(fleet, "scaling")["cells"]:
        if cell["latency_ms"] and cell["latency_ms"]["p50"]:
            what = f"{cell['servers']} of the workers, {cell['offered_rate']:.0f} requests per second"
            result.add(what, "median", "ms", [cell["latency_ms"]["p50"]])


def findings(fleet, experiment):
    """The summary that an experiment wrote on the client's machine."""
    return json.loads(fleet.client.run("cat", f"/tmp/{experiment}/summary.json"))


def commit_of(programs):
    """The commit that the programs were built from, according to `--version`."""
    command = [programs / "balancer", "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"commit ([0-9a-f]{7})", told)
    return found and found[1]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rspec", type=Path, default=ROOT / "rspec" / "image_class.rspec")
    arguments.add_argument("--programs", type=Path, default=ROOT / "target" / "release")
    arguments.add_argument("--rate", type=int, default=300)
    given = arguments.parse_args()
    skip_without_machines()
    with tempfile.TemporaryDirectory() as folder:
        releases = Path(folder) / "releases"
        releases.mkdir()
        two_releases(given.programs, releases)
        fleet = Slice(given.rspec, Path(folder), releases)
        try:
            fleet.install("1.0.0")
            answer = fleet.ask(encode(digit(7))).text.strip()
            print(f"{len(fleet.machines)} machines; a seven from the client's machine is {answer}", flush=True)
            result = Result("machines", command_line(), machines=len(fleet.machines), rate=f"{given.rate}/s")
            result.content["commit"] = commit_of(given.programs)
            measure(fleet, result)
            work_on(fleet, given.rate, result)
            result.write()
        finally:
            fleet.close()


if __name__ == "__main__":
    try:
        main()
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        sys.exit(str(missing))
