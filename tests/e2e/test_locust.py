"""The users of deploy/locust against the real programs, in several processes as on several machines."""

import contextlib
import csv
import http.server
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from fleet import ROOT

sys.path.insert(0, str(ROOT / "tests" / "kubernetes"))
import autoscaling  # noqa: E402

LOCUSTFILE = ROOT / "deploy" / "locust" / "locustfile.py"
SECONDS = 20
PREDICT = "/v1/models/iris_model:predict"
ROUTES = {"/", "/app.js", "/mnist", "/submit", PREDICT}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ended(command, enough=None):
    """Exit status and last output of a program, terminated once `enough` is set; all its processes end with it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as locust:
        try:
            if enough:
                assert enough.wait(60), "it asks for something"
                locust.terminate()
            said, _ = locust.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(locust.pid, signal.SIGKILL)
    return locust.returncode, said[-3000:]


def counted(path):
    """The rows that Locust has written, for each name and for all together."""
    with path.open() as table:
        return {row["Name"]: row for row in csv.DictReader(table)}


def test_all_kinds_of_users_are_served_without_a_failure(balancer, tmp_path):
    command = [Path(sys.executable).parent / "locust", "--locustfile", LOCUSTFILE, "--host", balancer.url]
    command += ["--headless", "--users", "24", "--spawn-rate", "24", "--run-time", f"{SECONDS}s"]
    port = str(free_port())
    command += ["--processes", "2", "--expect-workers-max-wait", "60"]
    command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    command += ["--csv", tmp_path / "run", "--exit-code-on-error", "1"]
    status, said = ended([str(part) for part in command])
    assert status == 0, said
    rows = counted(tmp_path / "run_stats.csv")
    assert set(rows) == ROUTES | {"Aggregated"}
    assert all(int(row["Request Count"]) > 0 for row in rows.values())
    assert rows["Aggregated"]["Failure Count"] == "0", said


class Overloaded(http.server.BaseHTTPRequestHandler):
    """Turns requests away, in turn with a time to come back, without one, and with one that is not a number."""

    times = itertools.cycle([{"Retry-After": "1"}, {}, {"Retry-After": "later"}])
    count = itertools.count(1)
    enough = threading.Event()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        for name, value in {**next(self.times), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
        if next(self.count) >= 30:
            self.enough.set()


def test_those_who_are_told_when_to_come_back_are_told_apart_from_failures(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_address[1]}"
        command = [Path(sys.executable).parent / "locust", "--locustfile", LOCUSTFILE, "--host", host, "--headless"]
        command += ["--users", "2", "--spawn-rate", "2", "--csv", tmp_path / "run", "FlowerUser"]
        _, said = ended([str(part) for part in command], Overloaded.enough)
        server.shutdown()
    rows = counted(tmp_path / "run_stats.csv")
    names = {"num_requests": "Request Count", "num_failures": "Failure Count"}
    stats = {name: {key: int(row[column]) for key, column in names.items()} for name, row in rows.items()}
    assert set(stats) == {PREDICT, PREDICT + autoscaling.TURNED_AWAY, "Aggregated"}, said
    requests, turned_away, failed, served = autoscaling.outcomes(stats)
    assert turned_away > 0 and failed > 0 and turned_away + failed == requests
    assert abs(failed - 2 * turned_away) <= 2, "one in three says when"
    assert served["num_requests"] == failed
