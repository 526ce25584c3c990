"""The users of deploy/locust on the real programs, on several processes as on several machines."""

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from fleet import ROOT

LOCUSTFILE = ROOT / "deploy" / "locust" / "locustfile.py"
SECONDS = 20
ROUTES = {"/", "/mnist", "/style.css", "/submit", "/v1/models/iris_model:predict"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ended(command):
    """Exit status and last words of a program whose processes all end with it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as locust:
        try:
            said, _ = locust.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(locust.pid, signal.SIGKILL)
    return locust.returncode, said[-3000:]


def test_all_kinds_of_users_are_served_without_a_failure(balancer, tmp_path):
    command = [Path(sys.executable).parent / "locust", "--locustfile", LOCUSTFILE, "--host", balancer.url]
    command += ["--headless", "--users", "24", "--spawn-rate", "24", "--run-time", f"{SECONDS}s"]
    port = str(free_port())
    command += ["--processes", "2", "--expect-workers-max-wait", "60"]
    command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    command += ["--csv", tmp_path / "run", "--exit-code-on-error", "1"]
    status, said = ended([str(part) for part in command])
    assert status == 0, said
    with (tmp_path / "run_stats.csv").open() as table:
        rows = {row["Name"]: row for row in csv.DictReader(table)}
    assert set(rows) == ROUTES | {"Aggregated"}
    assert all(int(row["Request Count"]) > 0 for row in rows.values())
    assert rows["Aggregated"]["Failure Count"] == "0", said
