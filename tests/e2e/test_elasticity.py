"""A balancer that starts and stops its own workers with the load: real programs under real load."""

import json
import signal
import subprocess

import requests

from conftest import TARGET
from fleet import eventually


def fleet(balancer):
    return requests.get(f"{balancer.admin}/fleet.json", timeout=10).json()


def metric(balancer, name):
    text = requests.get(f"{balancer.admin}/metrics", timeout=10).text
    [value] = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


def are_available(balancer, count):
    told = fleet(balancer)
    states = [endpoint["state"] for endpoint in told["endpoints"]]
    return told["elasticity"]["available"] == count and states == ["available"] * count


class Load:
    """Sixteen users that wait for each answer and send the next request immediately, while a `with` block lasts."""

    def __init__(self, url, folder):
        # Enough to keep a worker busy, however slow the machine is.
        command = [TARGET / "client", "load", "--target", url, "--arrivals", "closed", "--users", "16"]
        self._command = [*command, "--duration", "10m", "--warm-up", "0s", "--json", "--out", folder]

    def __enter__(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdout=pipe, stderr=pipe, text=True)
        return self

    def __exit__(self, *failure):
        self._process.send_signal(signal.SIGTERM)
        said, complaints = self._process.communicate(timeout=120)
        if failure[0] is None:
            assert said, complaints
            self.outcomes = json.loads(said)["outcomes"]


def test_a_second_worker_comes_with_the_load_and_goes_without_it_and_no_request_is_lost(start, tmp_path):
    flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker-threads", "1"]
    balancer = start("balancer", *flags, "--spawn", "1..2", "--spawn-shrink-after", "3s")
    balancer.admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
    eventually(lambda: are_available(balancer, 1), 60, "the first worker takes requests")
    assert len(balancer.workers()) == 1
    with Load(balancer.url, tmp_path / "load") as load:
        eventually(lambda: are_available(balancer, 2), 60, "a second worker takes requests")
        told = fleet(balancer)["elasticity"]
        assert (told["min"], told["max"], told["started"]) == (1, 2, 1), told
        victim = balancer.workers()[-1]
        victim.kill()
        victim.wait(timeout=30)
        eventually(lambda: are_available(balancer, 2), 60, "the worker that was killed is back")
    assert set(load.outcomes) == {"200"}, load.outcomes
    eventually(lambda: len(balancer.workers()) == 1, 60, "the second worker is gone")
    eventually(lambda: are_available(balancer, 1), 60, "it has left the list")
    told = fleet(balancer)["elasticity"]
    assert told["reason"] == "the minimum is enough", told
    started, stopped = (metric(balancer, f"balancer_workers_{what}_total") for what in ("started", "stopped"))
    assert started == stopped >= 1
    log = balancer.log.read_text()
    assert "starting more workers workers=1 more=1 reason=" in log
    assert "stopping a worker workers=2 worker=worker2 reason=" in log
    assert "worker stopped worker=worker2 reason=\"exit status 0\"" in log, "it ended in good order"
