"""A new version every second under a steady load: no request may fail, and none may be answered by a
version before a worker logged that it was ready.

    .venv/bin/python scripts/version_swap.py --seconds 60 --rate 500

Starts a balancer over two workers from target/release, writes a new version of a one-column model into
both repositories each second, and meanwhile sends requests to `/v2/models/line/infer` through the balancer.
"""

import argparse
import datetime
import http.client
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]

from fleet import Program, eventually  # noqa: E402
from models import write_line  # noqa: E402
from record import Result, command_line  # noqa: E402

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]})
READY = re.compile(r"^\S*?(\d{4}-\S+Z)\S*\s.*model ready.*?version\S*?=\S*?(\d+)")
PLAIN = re.compile(r"\x1b\[[0-9;]*m")


class Asker(threading.Thread):
    """Sends requests at fixed times, independent of the answers, and records each answer."""

    def __init__(self, address, period, offset, end):
        super().__init__(daemon=True)
        self.address, self.period, self.next, self.end = address, period, time.time() + offset, end
        self.answers, self.failures = [], []

    def run(self):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        while self.next < self.end:
            time.sleep(max(0, self.next - time.time()))
            due, self.next = self.next, self.next + self.period
            try:
                connection.request("POST", "/v2/models/line/infer", BODY)
                answer = connection.getresponse()
                text = answer.read()
                done = time.time()
                if answer.status != 200:
                    self.failures.append((answer.status, text[:200]))
                    continue
                value = json.loads(text)
                version = int(value["model_version"])
                if value["outputs"][0]["data"] != [float(version)]:
                    self.failures.append(("wrong result", text[:200]))
                self.answers.append((done, version, done - due, answer.getheader("x-imagefleet-endpoint")))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((type(error).__name__, str(error)))
                connection.close()


def ready_times(log):
    """When each version became ready on the worker that wrote `log`."""
    times = {}
    for line in PLAIN.sub("", log.read_text()).splitlines():
        if match := READY.search(line):
            moment = datetime.datetime.fromisoformat(match[1].replace("Z", "+00:00"))
            times.setdefault(int(match[2]), moment.timestamp())
    return times


def start(target, folder):
    models = [folder / "one", folder / "two"]
    for models_of_one in models:
        write_line(models_of_one, "line", 1, 0, 1)
    listen = ["--listen", "127.0.0.1:0"]
    workers = [
        Program([target / "worker", "serve", *listen, "--threads", "1", "--models", path], path / "stderr.log")
        for path in models
    ]
    upstream = [flag for worker in workers for flag in ("--worker", worker.address)]
    flags = [*listen, "--admin", "127.0.0.1:0", *upstream]
    balancer = Program([target / "balancer", *flags], folder / "balancer.log")

    def is_ready():
        connection = http.client.HTTPConnection(balancer.address, timeout=5)
        connection.request("POST", "/v2/models/line/infer", BODY)
        return connection.getresponse().status == 200

    eventually(is_ready, 30, "a ready balancer")
    return models, workers, balancer


def swap(models, end):
    version, moment = 1, time.time()
    while moment + 1 < end:
        version, moment = version + 1, moment + 1
        time.sleep(max(0, moment - time.time()))
        for folder in models:
            write_line(folder, "line", version, 0, version)
            shutil.rmtree(folder / "line" / str(version - 3), ignore_errors=True)
    return version


def judge(askers, workers, options):
    answers = sorted(answer for asker in askers for answer in asker.answers)
    failures = [failure for asker in askers for failure in asker.failures]
    ready = {worker.address: ready_times(worker.log) for worker in workers}
    early = [
        answer for answer in answers if answer[0] < ready.get(answer[3], {}).get(answer[1], float("inf"))
    ]
    latencies = sorted(answer[2] for answer in answers)
    p99 = latencies[int(len(latencies) * 0.99)] * 1e3
    versions = {answer[1] for answer in answers}
    print(f"{len(answers)} answers by {len(versions)} versions, p99 {p99:.1f} ms")
    print(f"{len(failures)} failures {failures[:3]}")
    print(f"{len(early)} answers by a version that was not ready {early[:3]}")
    result = Result("version-swap", command_line(), workers=len(workers))
    result.add(f"answers in {options.seconds:g} s at {options.rate:g}/s", "imagefleet", "", [len(answers)])
    result.add("versions that answered", "imagefleet", "", [len(versions)])
    result.add("requests that failed", "imagefleet", "", [len(failures)])
    result.add("answers by a version that was not ready", "imagefleet", "", [len(early)])
    result.write()
    return not failures and not early and len(versions) > 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--target", type=Path, default=ROOT / "target" / "release")
    options = parser.parse_args()
    threads = 8
    with tempfile.TemporaryDirectory() as folder:
        models, workers, balancer = start(options.target, Path(folder))
        try:
            period, end = threads / options.rate, time.time() + options.seconds
            askers = [Asker(balancer.address, period, n / options.rate, end) for n in range(threads)]
            for asker in askers:
                asker.start()
            written = swap(models, end)
            for asker in askers:
                asker.join()
            print(f"{written - 1} versions written at {options.rate:g} requests/s")
            passed = judge(askers, workers, options)
        finally:
            for program in [balancer, *workers]:
                program.stop()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
