#!/usr/bin/env python3
"""What other clients see under the worst known traffic: latency of small requests with and without it.

    python3 scripts/bench-hostile.py worker       about three minutes; nothing else should run on the machine
    python3 scripts/bench-hostile.py balancer     about three minutes
    python3 scripts/bench-hostile.py worker --seconds 5 --rate 250 --rounds 1

A worker is sent the hostile inputs of its tests in an endless sequence from each of two connections. A balancer has
ten clients that open 4,096 HTTP/2 streams each with a flow-control window of zero. Needs release builds
(cargo build --release --bins) and the Python packages of tests/e2e/requirements.txt. Figures go to bench/results.
"""

import argparse
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]
import h2.config  # noqa: E402
import h2.connection  # noqa: E402
import h2.settings  # noqa: E402
import record  # noqa: E402
import requests  # noqa: E402
from fleet import Program, Threads, eventually, resident_memory  # noqa: E402
from worker_inputs import CASES, binary, jpeg_of_tables, picture, rows_of  # noqa: E402

SENDERS = {"worker": 2, "balancer": 10}
STREAMS = 4096


def columns(rows):
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    body = json.dumps({"inputs": {name: [1.0] * rows for name in names}}).encode()
    return "/v1/models/iris_model:predict", body, {}


def worst():
    """The inputs that take longest, and those that failed once."""
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


def streams_without_room():
    """The bytes of a client that sends a request on every stream, with a window that lets no answer be sent."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    names = {":method": "GET", ":scheme": "http", ":authority": "balancer", ":path": "/v1/models/iris_model"}
    for number in range(STREAMS):
        client.send_headers(2 * number + 1, list(names.items()), end_stream=True)
    return client.data_to_send()


def hold_streams(address, asked, threads, sent):
    """Opens a connection with all its streams, and a new one whenever the balancer closes it."""
    host, port = address.rsplit(":", 1)
    while not threads.ending.is_set():
        begun = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=0.2) as client:
            try:
                client.sendall(asked)
                while not threads.ending.is_set():
                    try:
                        if not client.recv(65_536):
                            break
                    except TimeoutError:
                        pass
            except OSError:
                pass  # the balancer closed the connection
        sent.append(time.monotonic() - begun)
        threads.ending.wait(0.1)


def measure(args, url, folder):
    words = ["load", "--target", url, "--workload", "iris", "--rate", args.rate, "--duration", f"{args.seconds + 3}s"]
    command = [args.bin / "client", "--log", "error", *map(str, words), "--json", "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        sys.exit(f"client load: {done.stderr}")
    return json.loads(done.stdout)


def start(args, folder):
    """The program under test, and what one hostile client does to it."""
    if args.what == "worker":
        program = Program(
            [args.bin / "worker", "serve", "--listen", "127.0.0.1:0", "--models", ROOT / "models"], folder / "worker.log"
        )
        inputs = worst()
        return program, lambda threads, sent: send_all_the_time(program.url, inputs, threads, sent)
    flags = ["--listen", "127.0.0.1:0", "--spawn", "2", "--worker-bin", args.bin / "worker"]
    program = Program([args.bin / "balancer", *flags], folder / "balancer.log")
    eventually(lambda: requests.get(f"{program.url}/v2/health/ready", timeout=5).ok, 30, "workers are ready")
    asked = streams_without_room()
    return program, lambda threads, sent: hold_streams(program.address, asked, threads, sent)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SENDERS, help="which program is sent the worst")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--seconds", type=int, default=27, help="length of a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs with and without the hostile clients, in turn")
    parser.add_argument("--rate", type=int, default=50, help="small requests per second")
    args = parser.parse_args()
    if args.seconds * args.rate < 1000:
        parser.error("a 99th percentile is told of 1,000 requests and more: raise --seconds or --rate")
    sent, senders = [], SENDERS[args.what]
    found = {"alone": [], "beside hostile clients": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        program, attack = start(args, folder)
        try:
            memory = [resident_memory(program.process.pid)]
            for number in range(args.rounds):
                found["alone"].append(measure(args, program.url, folder / f"alone-{number}"))
                threads = Threads(senders, lambda: attack(threads, sent))
                with threads:
                    found["beside hostile clients"].append(measure(args, program.url, folder / f"beside-{number}"))
                memory.append(resident_memory(program.process.pid))
        finally:
            program.stop()
    name = {"worker": "hostile", "balancer": "streams"}[args.what]
    result = record.Result(name, record.command_line(), rate=args.rate, seconds=args.seconds, senders=senders)
    result.judge(itertools.chain(*found.values()))
    for of, summaries in found.items():
        for quantile in ("p50", "p99"):
            values = [summary["latency_ms"][quantile] for summary in summaries]
            print(f"{of}: {quantile} {', '.join(f'{value:.2f}' for value in values)} ms")
            result.add(f"small requests: {quantile}", of, "ms", values)
        result.add("small requests that failed", of, "", [summary["failed_ms"]["count"] for summary in summaries])
    told = {"worker": "hostile requests answered", "balancer": "connections with 4,096 streams"}[args.what]
    result.add(told, args.what, "", [len(sent)])
    result.add("the longest of them", args.what, "s", [max(sent)])
    result.add("resident memory after each round", args.what, "MB", memory[1:])
    print(f"{told}: {len(sent)}, the longest {max(sent):.2f} s; resident memory {memory} MB")
    result.write()


if __name__ == "__main__":
    main()
