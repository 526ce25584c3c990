#!/usr/bin/env python3
"""What others see of a worker while it is sent the worst that is known: latency of small requests with and without.

    python3 scripts/bench-hostile.py              about three minutes; nothing else should run on the machine
    python3 scripts/bench-hostile.py --seconds 5 --rate 250 --rounds 1

Needs release builds (cargo build --release --bins) and the Python packages of tests/e2e/requirements.txt, whose hostile
inputs it sends one after the other, all the time, from each of two connections. Figures go to bench/results.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]
import record  # noqa: E402
import requests  # noqa: E402
from fleet import Program, Threads, resident_memory  # noqa: E402
from worker_inputs import CASES, binary, jpeg_of_tables, picture, rows_of  # noqa: E402

SENDERS = 2


def columns(rows):
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    body = json.dumps({"inputs": {name: [1.0] * rows for name in names}}).encode()
    return "/v1/models/iris_model:predict", body, {}


def worst():
    """What takes longest, beside what has failed once."""
    packed = {"content-encoding": "gzip"}
    return [
        *(question for _, _, question in CASES.values()),
        picture(jpeg_of_tables(10_000_000)),
        columns(65_536),
        binary("image", "mnist", [3000, 28, 28], bytes(3000 * 784 * 4)),
        ("/v1/models/mnist:predict", CASES["a packed bomb"][2][1], packed),
        rows_of("/" * 9_000_000),
    ]


def send_all_the_time(url, inputs, threads, sent):
    with requests.Session() as session:
        for path, body, headers in itertools.cycle(inputs):
            if threads.ending.is_set():
                return
            answer = session.post(url + path, data=body, headers={"accept": "application/json"} | headers, timeout=120)
            assert answer.status_code not in (500, 502), (path, answer.text[:300])
            sent.append(answer.elapsed.total_seconds())


def measure(args, url, folder):
    words = ["load", "--target", url, "--workload", "iris", "--rate", args.rate, "--duration", f"{args.seconds + 3}s"]
    command = [args.bin / "client", "--log", "error", *map(str, words), "--json", "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        sys.exit(f"client load: {done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--seconds", type=int, default=27, help="length of a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs with and without the hostile inputs, in turn")
    parser.add_argument("--rate", type=int, default=50, help="small requests per second")
    args = parser.parse_args()
    if args.seconds * args.rate < 1000:
        parser.error("a 99th percentile is told of 1,000 requests and more: raise --seconds or --rate")
    inputs, sent = worst(), []
    found = {"alone": [], "beside hostile requests": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        flags = ["serve", "--listen", "127.0.0.1:0", "--models", ROOT / "models"]
        worker = Program([args.bin / "worker", *flags], folder / "worker.log")
        try:
            memory = [resident_memory(worker.process.pid)]
            for number in range(args.rounds):
                found["alone"].append(measure(args, worker.url, folder / f"alone-{number}"))
                senders = Threads(SENDERS, lambda: send_all_the_time(worker.url, inputs, senders, sent))
                with senders:
                    found["beside hostile requests"].append(measure(args, worker.url, folder / f"beside-{number}"))
                memory.append(resident_memory(worker.process.pid))
        finally:
            worker.stop()
    result = record.Result("hostile", record.command_line(), rate=args.rate, seconds=args.seconds, senders=SENDERS)
    for of, summaries in found.items():
        for quantile in ("p50", "p99"):
            values = [summary["latency_ms"][quantile] for summary in summaries]
            print(f"{of}: {quantile} {', '.join(f'{value:.2f}' for value in values)} ms")
            result.add(f"small requests: {quantile}", of, "ms", values)
        result.add("small requests that failed", of, "", [summary["failed_ms"]["count"] for summary in summaries])
    result.add("hostile requests answered", "worker", "", [len(sent)])
    result.add("the longest of them", "worker", "s", [max(sent)])
    result.add("resident memory after each round", "worker", "MB", memory[1:])
    print(f"{len(sent)} hostile requests, the longest {max(sent):.2f} s; resident memory {memory} MB")
    result.write()


if __name__ == "__main__":
    main()
