#!/usr/bin/env python3
"""Small models as a service on this machine, and how well digits are read.

    python3 scripts/bench-models.py service --digits DIR   Iris and digits through a balancer with two workers of one
                                                           thread; a minute and a half, and nothing else should run
    python3 scripts/bench-models.py digits --data DIR      the digit model on the test images of MNIST

Needs release builds (cargo build --release --workspace --bins). Figures go to bench/results.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import record  # noqa: E402
from programs import Programs, client, free_port  # noqa: E402

WORKERS = 2
IRIS_RATE = 1000


def service(args):
    result = record.Result("model-server", record.command_line(), workers=WORKERS, rounds=args.rounds)
    summaries = []
    with tempfile.TemporaryDirectory() as name, Programs(Path(name)) as programs:
        url = f"http://127.0.0.1:{free_port()}"
        words = ["--listen", url.removeprefix("http://"), "--admin", f"127.0.0.1:{free_port()}", "--models", ROOT / "models"]
        words += ["--spawn", str(WORKERS), "--worker-threads", "1"]
        programs.start(args.bin / "balancer", *words, url=f"{url}/v2/models/iris_model/ready")

        def load(*words):
            """The summaries of all rounds of one load."""
            common = ["load", "--target", url, "--duration", f"{args.seconds}s", "--warm-up", "1s", "--json", "--out"]
            found = [client(args, *common, Path(name) / f"{len(summaries)}-{turn}", *words)[0] for turn in range(args.rounds)]
            summaries.extend(found)
            return found

        def tell(what, runs, *rows):
            for row, unit, read in rows:
                result.add(f"{what}: {row}", "imagefleet", unit, [read(run) for run in runs])

        answers = ("answers", "/s", lambda run: run["throughput"])
        median = ("median latency", "ms", lambda run: run["latency_ms"]["p50"])
        tail = ("99th percentile", "ms", lambda run: run["latency_ms"]["p99"])
        runs = load("--workload", "iris", "--arrivals", "poisson", "--rate", str(IRIS_RATE))
        tell(f"Iris, Poisson arrivals at {IRIS_RATE:,}/s", runs, median, tail)
        for what, users, work in (
            ("Iris", 32, ["--workload", "iris"]),
            ("Iris", 128, ["--workload", "iris"]),
            ("MNIST digits", 32, ["--images", args.digits]),
            ("MNIST digits", 64, ["--images", args.digits]),
        ):
            tell(f"{what}, {users} users", load(*work, "--arrivals", "closed", "--users", str(users)), answers, tail)
    result.judge(summaries)
    for figure in result.content["figures"]:
        print(f"{figure['what']}: {figure['median']:.4g} {figure['unit']}")
    result.write()


def digits(args):
    command = [args.bin / "worker", "eval", "mnist", "--data", args.data, "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout)
    told = "worker eval mnist --data DIR"
    result = record.Result("digits", told)
    interval = [100 * share for share in found["interval"]]
    result.add_interval("images read right, of 10,000", "imagefleet", "%", 100 * found["accuracy"], interval, 1)
    result.content["note"] = "The range is the 95 % interval."
    result.write()
    result = record.Result("digits-confusion", told)
    for actual, row in enumerate(found["confusion"]["counts"]):
        for predicted, count in enumerate(row):
            result.add(f"read as {predicted}", str(actual), "", [count])
    result.write()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", help="where the programs are")
    parts = parser.add_subparsers(required=True, metavar="PART")
    part = parts.add_parser("service")
    part.add_argument("--digits", type=Path, required=True, help="a folder with pictures of digits")
    part.add_argument("--seconds", type=int, default=5, help="length of a run")
    part.add_argument("--rounds", type=int, default=3, help="runs of each load")
    part.set_defaults(run=service)
    part = parts.add_parser("digits")
    part.add_argument("--data", type=Path, required=True, help="the folder of MNIST's files")
    part.set_defaults(run=digits)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
