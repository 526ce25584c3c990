"""How the main figures changed from commit to commit: builds the balancer and worker of each, and measures them in
turn in one run.

    python3 bench/history.py PHOTO --models models v0.2.0 HEAD

Figures from different days or machines are hardly comparable, so all commits are measured anew,
beside nginx and HAProxy. Programs stay in target/history, and are built only once; every commit
takes some minutes for that, and one more per round of all. The load generator is that of the current tree.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from programs import Programs, client, free_port
from record import Result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "proxylab"))

import proxies as lab  # noqa: E402
from bench import GET, POST, at_rate, drive  # noqa: E402

STORE = ROOT / "target" / "history"
USERS = 8
# What is measured: its unit, the load, and the figure's key in the result of a wrk run.
PROXIED = {
    f"processor time per {GET}": ("µs", GET, "cpu_us"),
    f"processor time per {POST}": ("µs", POST, "cpu_us"),
    "99th percentile at 70 % of HAProxy's peak rate": ("ms", "paced", "p99_ms"),
}
PASSES = {"MobileNetV2, batch 1, f32": "f32", "MobileNetV2, batch 1, fastest precision": "auto"}
PHOTOS = f"photos answered, {USERS} users"


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def built(commit):
    """The folder with the balancer and worker of a commit, which are built if needed."""
    folder = STORE / commit
    if not all((folder / program).exists() for program in ("balancer", "worker")):
        tree = STORE / "tree"
        print(f"building {commit}", file=sys.stderr, flush=True)
        git("worktree", "add", "--force", "--detach", str(tree), commit)
        try:
            # Dependencies that commits share are built once.
            build = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "balancer", "--bin", "worker"]
            subprocess.run(build, cwd=tree, check=True, env=os.environ | {"CARGO_TARGET_DIR": str(STORE / "build")})
            folder.mkdir(parents=True, exist_ok=True)
            for program in ("balancer", "worker"):
                shutil.copy2(STORE / "build" / "release" / program, folder)
        finally:
            git("worktree", "remove", "--force", str(tree))
    return folder


def balancer_of(commit, folder):
    """The balancer of a commit as a proxy. It writes an access log; the peers do not."""

    class Balancer(lab.Imagefleet):
        name, extra = commit, ["--access-log", str(folder / f"{commit}.log")]

        def start(self):
            lab.BIN = STORE / commit
            return super().start()

    return Balancer


def in_turn(items, number):
    return items if number % 2 == 0 else items[::-1]


def proxied(folder, commits, args):
    """Runs wrk through every balancer and its peers; returns the measured values by (what, of)."""
    ports = [lab.free_port(), lab.free_port()]
    upstream = lab.trivial_upstreams(folder, ports, pin=1)
    runs, running, pauses = {}, [], {}
    try:
        for kind in [*(balancer_of(commit, folder) for commit in commits), lab.Nginx, lab.Haproxy]:
            running.append(kind(folder, [f"127.0.0.1:{port}" for port in ports], pin=0).start())
        for number in range(args.rounds):
            for load in (GET, POST):
                for proxy in in_turn(running, number):
                    runs.setdefault((load, proxy.name), []).append(drive(folder, proxy, load, args.seconds))
        rate = 0.7 * statistics.median(run["rate"] for run in runs[GET, "haproxy"])
        for number in range(args.rounds):
            for proxy in in_turn(running, number):
                runs.setdefault(("paced", proxy.name), []).append(at_rate(folder, proxy, rate, args.seconds, pauses))
    finally:
        for proxy in running:
            proxy.stop()
        upstream.terminate()
        upstream.wait()
    names = {proxy.name: {"nginx": "nginx", "haproxy": "HAProxy"}.get(proxy.name, proxy.name) for proxy in running}
    return {(what, of): [run[figure] for run in runs[load, name]] for what, (_, load, figure) in PROXIED.items() for name, of in names.items()}


def passes(commits, args):
    """Milliseconds per pass of the photo network on one core."""
    times = {}
    for number in range(args.rounds):
        for what, precision in PASSES.items():
            for commit in in_turn(commits, number):
                command = ["taskset", "-c", "1", STORE / commit / "worker", "--log", "error", "bench", "--model", "mobilenet_v2"]
                command += ["--models", args.models, "--threads", "1", "--batch", "1", "--seconds", "1", "--json", "--precision", precision]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times.setdefault((what, commit), []).append(json.loads(done.stdout)["latency_ms"]["p50"])
    return times


def photos(folder, commits, args):
    """Photos per second of a balancer with one worker per core, all on this machine."""
    rates = {}
    load = ["load", "--arrivals", "closed", "--users", str(USERS), "--threads", "1", "--images", args.photo]
    load += ["--warm-up", "1s", "--duration", f"{2 * args.seconds}s", "--json"]
    for number in range(args.rounds):
        for commit in in_turn(commits, number):
            address = f"127.0.0.1:{free_port()}"
            flags = ["--log", "warn", "--listen", address, "--spawn", str(os.cpu_count()), "--models", args.models]
            with Programs(folder) as programs:
                programs.start(STORE / commit / "balancer", *flags, url=f"http://{address}/v2/models/mobilenet_v2/ready")
                summary, _ = client(args, *load, "--target", f"http://{address}")
            rates.setdefault((PHOTOS, commit), []).append(summary["throughput"])
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("commits", nargs="+", metavar="COMMIT", help="oldest first")
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--bin", type=Path, default=ROOT / "target" / "release", help="where the client is (target/release)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one run of wrk; photos get twice that")
    args = parser.parse_args()
    args.photo, args.models, args.bin = (path.resolve() for path in (args.photo, args.models, args.bin))
    commits = [git("rev-parse", "--short=7", f"{commit}^{{commit}}") for commit in args.commits]
    for commit in commits:
        built(commit)
    command = f"python3 bench/history.py PHOTO {' '.join(args.commits)} --rounds {args.rounds}"
    result = Result("history", command, commits=", ".join(commits), rounds=args.rounds)
    result.content["note"] = "The balancers write an access log, nginx and HAProxy none."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = proxied(folder, commits, args) | passes(commits, args) | photos(folder, commits, args)
    units = {what: unit for what, (unit, _, _) in PROXIED.items()} | dict.fromkeys(PASSES, "ms") | {PHOTOS: "/s"}
    for (what, of), values in measured.items():
        result.add(what, of, units[what], values)
    result.write()


if __name__ == "__main__":
    lab.run(main)
