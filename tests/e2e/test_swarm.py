"""deploy/compose.yaml as the stack of a Swarm of two engines that are joined by a network.

It takes minutes, so it runs only with IMAGEFLEET_SWARM=1. With IMAGEFLEET_RECORD=1 the figures are recorded in
bench/results/swarm.DATE.COMMIT.json; use IMAGEFLEET_PROFILE=release for meaningful figures.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections import Counter

import pytest
import requests
import steady
from conftest import TARGET
from engine import Engine, Network, inside, run, skip_without_engine, skip_without_stacks
from fleet import ROOT, eventually

sys.path.insert(0, str(ROOT / "bench"))
from record import Result  # noqa: E402

DEPLOY = ROOT / "deploy"
# The kernel may lack IPVS, without which the routing mesh does not answer.
FILES = ["--compose-file", "compose.yaml", "--compose-file", "compose.host-ports.yaml"]
PUBLIC = "http://127.0.0.1:5000"
ADMIN = "http://127.0.0.1:9900"
IMAGES = ["imagefleet-balancer", "imagefleet-worker"]
RATE = 300
COMMAND = "IMAGEFLEET_SWARM=1 IMAGEFLEET_RECORD=1 IMAGEFLEET_PROFILE=release pytest tests/e2e/test_swarm.py"


class Stack:
    """The service on two nodes."""

    def __init__(self, manager, other, folder):
        self.manager, self.other, self.folder = manager, other, folder
        self.result = Result("swarm", COMMAND, requests=f"{RATE}/s", nodes=2)
        self.token = secrets.token_hex(32)
        token_file = folder / "admin-token"
        token_file.write_text(self.token)
        self.environment = {**manager.environment, "ADMIN_TOKEN_FILE": str(token_file), "WORKERS": "2", "ADMIN": "9900"}

    def deploy(self, **variables):
        command = ["docker", "stack", "deploy", "--resolve-image", "never", *FILES, "imagefleet"]
        run(*command, env={**self.environment, **variables}, cwd=DEPLOY)

    def service(self, verb, *arguments):
        """Changes the workers and waits until that is done."""
        return self.manager.docker("service", verb, "--detach=false", *arguments)

    def places(self):
        """Number of workers that run on each node."""
        tasks = self.manager.docker("service", "ps", "--filter", "desired-state=running", "--quiet", "imagefleet_worker")
        if not tasks:
            return Counter()
        inspected = self.manager.docker("inspect", "--format", "{{.NodeID}} {{.Status.State}}", *tasks.split())
        return Counter(line.split()[0] for line in inspected.splitlines() if line.endswith(" running"))

    def available(self):
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            answer = requests.get(f"{ADMIN}/fleet.json", headers=headers, timeout=10)
        except requests.ConnectionError:
            return 0
        return sum(endpoint["state"] == "available" for endpoint in answer.json()["endpoints"])

    @contextlib.contextmanager
    def load(self, what):
        """300 requests per second while the block lasts; none may fail."""
        try:
            with steady.load(PUBLIC, RATE, self.folder / "load") as seen:
                yield
        except AssertionError:
            print(self.manager.docker("service", "logs", "--tail", "40", "imagefleet_balancer"))
            raise
        seen.add_to(self.result, what)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    if os.environ.get("IMAGEFLEET_SWARM") != "1":
        pytest.skip("Swarm takes minutes: IMAGEFLEET_SWARM=1 runs it")
    skip_without_engine()
    skip_without_stacks()
    network = Network()
    engines = [Engine(tmp_path_factory.mktemp("engine"), network) for _ in range(2)]
    manager, other = engines
    with inside(manager.name):
        run(ROOT / "scripts" / "images.sh", "balancer", "worker", env={**manager.environment, "PROGRAMS": str(TARGET)})
        copy_images(manager, other)
        manager.docker("swarm", "init", "--advertise-addr", manager.address)
        token = manager.docker("swarm", "join-token", "--quiet", "worker")
        other.docker("swarm", "join", "--token", token, f"{manager.address}:2377")
        stack = Stack(manager, other, tmp_path_factory.mktemp("stack"))
        stack.deploy()
        eventually(lambda: stack.available() == 2, 120, "both workers are available")
        yield stack
        manager.docker("stack", "rm", "imagefleet")
    if os.environ.get("IMAGEFLEET_RECORD") == "1":
        stack.result.write()
    for engine in engines:
        engine.close()
    network.close()


def copy_images(source, target):
    with subprocess.Popen(["docker", "save", *IMAGES], env=source.environment, stdout=subprocess.PIPE) as saving:
        subprocess.run(["docker", "load", "--quiet"], env=target.environment, stdin=saving.stdout, check=True)
    assert saving.returncode == 0


def test_workers_on_both_nodes_are_found_and_serve(stack):
    assert sorted(stack.places().values()) == [1, 1]
    with stack.load("two workers, nothing changes"):
        pass


def test_scaling_an_update_and_going_back_lose_no_request(stack):
    with stack.load("scaled from 2 to 4"):
        stack.service("scale", "imagefleet_worker=4")
        eventually(lambda: stack.available() == 4, 60, "four workers are available")
    with stack.load("scaled from 4 to 2"):
        stack.service("scale", "imagefleet_worker=2")
        eventually(lambda: stack.available() == 2, 60, "two workers are available")
    with stack.load("rolling update"):
        stack.service("update", "--env-add", "WORKER_LOG=warn", "imagefleet_worker")
        eventually(lambda: stack.available() == 2, 60, "the new workers are available")
    with stack.load("rollback"):
        stack.service("rollback", "imagefleet_worker")
        eventually(lambda: stack.available() == 2, 60, "the workers as before are available")


def test_a_worker_that_is_killed_costs_no_request_and_is_replaced(stack):
    with stack.load("a worker killed with SIGKILL"):
        workers = ["ps", "--quiet", "--filter", "name=imagefleet_worker"]
        engine = next(engine for engine in (stack.other, stack.manager) if engine.docker(*workers))
        container = engine.docker(*workers).split()[0]
        engine.docker("kill", container)
        eventually(lambda: container not in engine.docker(*workers), 60, "it is gone")
        eventually(lambda: sum(stack.places().values()) == 2, 60, "another one runs")
        eventually(lambda: stack.available() == 2, 60, "both workers are available")


def test_a_node_that_is_drained_hands_its_workers_over_without_loss(stack):
    name = stack.other.docker("info", "--format", "{{.Swarm.NodeID}}")
    with stack.load("a node drained"):
        stack.manager.docker("node", "update", "--availability", "drain", name)
        eventually(lambda: sum(stack.places().values()) == 2 and name not in stack.places(), 90, "the node is empty")
        eventually(lambda: stack.available() == 2, 60, "both workers are available")
    stack.manager.docker("node", "update", "--availability", "active", name)


def test_workers_are_found_by_the_name_of_their_tasks_as_well(stack):
    stack.deploy(WORKER_NAME="tasks.worker")
    eventually(lambda: "dns:tasks.worker:8501" in stack.manager.docker("ps", "--no-trunc"), 60, "a new balancer")
    eventually(lambda: stack.available() == 2, 60, "both workers are available")
    with stack.load("found as tasks.worker, scaled from 2 to 4"):
        stack.service("scale", "imagefleet_worker=4")
        eventually(lambda: stack.available() == 4, 60, "four workers are available")
