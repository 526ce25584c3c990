"""The images, and the service as Docker Compose runs it, on a real engine.

With IMAGEFLEET_RECORD=1 the load on a model made by SQL is recorded in
bench/results/sql-to-service.DATE.COMMIT.json; use IMAGEFLEET_PROFILE=release for meaningful figures.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys

import pytest
import requests
import steady
from conftest import PROFILE, TARGET
from engine import Engine, inside, run, skip_without_engine
from fleet import ROOT, eventually
from pictures import digit, encode
from users import FLOWER, Users

sys.path.insert(0, str(ROOT / "bench"))
from record import Result  # noqa: E402

DEPLOY = ROOT / "deploy"
PUBLIC = "http://127.0.0.1:5000"
ADMIN = "http://127.0.0.1:9900"
# Requests per second sent while something is changed; a build that is not optimised takes fewer.
STEADY = 100
MANY, LONG = (1000, 20) if PROFILE == "release" else (STEADY, 4)
COMMAND = "IMAGEFLEET_RECORD=1 IMAGEFLEET_PROFILE=release pytest tests/e2e/test_docker.py -k sql"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An engine with the images of the balancer and the worker."""
    skip_without_engine()
    engine = Engine(tmp_path_factory.mktemp("engine"))
    with inside(engine.name):
        images = ["balancer", "worker", "imagefleet"]
        run(ROOT / "scripts" / "images.sh", *images, env={**engine.environment, "PROGRAMS": str(TARGET)})
        yield engine
    engine.close()


class Project:
    """The service of deploy/compose.yaml."""

    def __init__(self, engine, folder):
        self.engine = engine
        self.token = secrets.token_hex(32)
        token_file = folder / "admin-token"
        token_file.write_text(self.token)
        self.environment = {**engine.environment, "ADMIN_TOKEN_FILE": str(token_file), "WORKERS": "2"}
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        if not plugin and not shutil.which("docker-compose"):
            pytest.skip("SKIPPED: no Docker Compose (Debian: apt install docker-compose)")
        self._command = ["docker", "compose"] if plugin else ["docker-compose"]

    def compose(self, *arguments):
        return run(*self._command, *arguments, env=self.environment, cwd=DEPLOY)

    def scale(self, count):
        self.compose("up", "--detach", "--no-recreate", "--scale", f"worker={count}")

    def workers(self):
        return self.compose("ps", "-q", "worker").split()

    def fleet(self):
        answer = requests.get(f"{ADMIN}/fleet.json", headers={"Authorization": f"Bearer {self.token}"}, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["endpoints"]

    def models(self):
        """The models that each available worker serves."""
        endpoints = [endpoint for endpoint in self.fleet() if endpoint["state"] == "available"]
        return [[model["name"] for model in endpoint["models"]] for endpoint in endpoints]

    def available(self):
        return sum(endpoint["state"] == "available" for endpoint in self.fleet())


@pytest.fixture(scope="module")
def project(engine, tmp_path_factory):
    """The service with two workers, both found by the balancer."""
    project = Project(engine, tmp_path_factory.mktemp("project"))
    project.compose("up", "--detach")
    eventually(lambda: balancer_is_up() and project.available() == 2, 60, "two workers are available")
    yield project
    project.compose("down")
    assert not engine.docker("ps", "--all", "--quiet"), "down leaves no container behind"


def balancer_is_up():
    try:
        return requests.get(f"{PUBLIC}/v2/health/ready", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("name", ["balancer", "worker"])
def test_an_image_has_a_program_its_libraries_and_no_root(engine, name):
    config = engine.inspect(f"imagefleet-{name}", "image")["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", name, "healthcheck"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"imagefleet {name}"
    assert labels["org.opencontainers.image.version"] in (ROOT / "Cargo.toml").read_text()
    container = engine.docker("create", f"imagefleet-{name}")
    listing = subprocess.run(["tar", "--list"], input=exported(engine, container), capture_output=True, check=True)
    engine.docker("rm", container)
    files = [file for file in listing.stdout.decode().split() if not file.endswith("/")]
    programs = [file for file in files if "/bin/" in file]
    assert programs == [f"usr/local/bin/{name}"], files


def exported(engine, container):
    return subprocess.run(["docker", "export", container], env=engine.environment, capture_output=True, check=True).stdout


def test_an_upload_is_answered_and_the_fleet_is_shown_to_those_who_know_the_token(project):
    answer = requests.post(f"{PUBLIC}/submit", files={"image": encode(digit(7))}, timeout=30)
    assert (answer.status_code, answer.text.strip()) == (200, '"7"')
    assert requests.get(PUBLIC, headers={"Accept": "text/html"}, timeout=10).ok
    assert requests.get(f"{ADMIN}/fleet.json", timeout=10).status_code == 401
    assert [endpoint["state"] for endpoint in project.fleet()] == ["available"] * 2


def test_containers_are_confined_and_well(project):
    for container in project.engine.docker("ps", "--quiet").split():
        eventually(lambda: project.engine.inspect(container)["State"]["Health"]["Status"] == "healthy", 60, container)
        inspected = project.engine.inspect(container)
        host = inspected["HostConfig"]
        assert inspected["Config"]["StopTimeout"] == 40, "it may finish what it has"
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
        assert host["Memory"] and host["NanoCpus"], "its memory and processors are limited"
        assert host["SecurityOpt"] == ["no-new-privileges:true"]


def test_workers_come_and_go_with_the_scale_and_no_request_fails(project):
    with Users(PUBLIC) as users:
        for count in [4, 1, 2]:
            project.scale(count)
            eventually(lambda: project.available() == count, 60, f"{count} workers are available")
            eventually(lambda: users.served_by(count), 60, f"answers of {count} workers")
    assert not users.failures


def killed(project, container):
    """Kills the container's process and waits until the container runs again."""
    before = project.engine.inspect(container)["State"]["Pid"]
    os.kill(before, signal.SIGKILL)

    def is_back():
        state = project.engine.inspect(container)["State"]
        return state["Running"] and state["Pid"] != before

    eventually(is_back, 60, "the container runs again")


def test_a_container_that_is_killed_costs_no_request_and_is_started_again(project, tmp_path):
    # Few enough users that the retry budget covers all of them while the worker loads its models.
    with steady.load(PUBLIC, STEADY, tmp_path, seconds=0), Users(PUBLIC, count=3) as users:
        eventually(lambda: users.served_by(2), 60, "answers of both workers")
        killed(project, project.workers()[0])
        eventually(lambda: project.available() == 2, 60, "both workers are available")
        eventually(lambda: users.served_by(2), 60, "answers of both workers")
    assert not users.failures


def test_a_balancer_that_is_killed_is_started_again_and_finds_its_workers(project):
    killed(project, project.compose("ps", "-q", "balancer"))
    eventually(lambda: balancer_is_up() and project.available() == 2, 60, "it has found both workers")
    answer = requests.post(f"{PUBLIC}/submit", files={"image": encode(digit(7))}, timeout=30)
    assert (answer.status_code, answer.text.strip()) == (200, '"7"')


def test_workers_are_replaced_by_new_ones_and_no_request_fails(project):
    before = set(project.workers())
    with Users(PUBLIC) as users:
        run(DEPLOY / "replace-workers.sh", env=project.environment)
        after = set(project.workers())
        assert len(after) == 2 and not after & before
        eventually(lambda: project.available() == 2, 60, "the new workers are available")
        eventually(lambda: users.served_by(2), 60, "answers of the new workers")
    assert not users.failures


@pytest.fixture(scope="module")
def flowers(project, tmp_path_factory):
    """The service with two workers that serve a model made by SQL."""
    # A folder that the container's user may read.
    models = tmp_path_factory.mktemp("sql") / "serving_dir"
    models.mkdir()
    statement, table = ROOT / "models/iris_model/1/training.sql", ROOT / "client/src/workload/iris.csv"
    run(TARGET / "worker", "train", "sql", statement, "--csv", f"iris={table}", "--models", models)
    project.environment |= {"MODELS": str(models), "COMPOSE_FILE": "compose.yaml:compose.models.yaml"}
    project.compose("up", "--detach")
    eventually(lambda: project.models() == [["iris_model"]] * 2, 60, "both workers serve it, and nothing else")
    return project


def test_a_model_that_sql_has_made_is_served_by_every_container(flowers):
    rows = {"instances": [FLOWER]}
    answer = requests.post(f"{PUBLIC}/v1/models/iris_model:predict", json=rows, timeout=30)
    assert answer.json()["predictions"][0]["predicted_species"] == ["versicolor"]


def test_a_model_that_sql_has_made_loses_no_request_while_workers_are_added(flowers, tmp_path):
    with steady.load(PUBLIC, MANY, tmp_path, seconds=LONG) as seen:
        flowers.scale(4)
        eventually(lambda: flowers.models() == [["iris_model"]] * 4, 60, "four workers serve it")
    if os.environ.get("IMAGEFLEET_RECORD") == "1":
        result = Result("sql-to-service", COMMAND, requests=f"{MANY}/s")
        seen.add_to(result, "scaled from 2 to 4 workers")
        result.write()


def test_one_container_is_a_service_on_the_port_that_a_platform_gives(engine):
    limits = ["--read-only", "--cap-drop=ALL", "--cpus=2", "--memory=1g"]
    variables = ["--env=PORT=8080", "--env=BALANCER_SPAWN=2", "--env=BALANCER_DRAIN_TIMEOUT=8s"]
    container = engine.docker("run", "--detach", *limits, *variables, "--publish=8080:8080", "imagefleet")
    url = "http://127.0.0.1:8080"

    def says(path):
        try:
            return requests.get(f"{url}/v2/health/{path}", timeout=5).ok
        except requests.ConnectionError:
            return False

    eventually(lambda: says("ready"), 90, "it is ready")
    assert says("live")
    with Users(url) as users:
        eventually(lambda: users.served_by(2), 60, "answers of both workers")
    assert not users.failures
    engine.docker("stop", "--time", "10", container)
    state = engine.inspect(container)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), "it ends by itself when it is told to"
    engine.docker("rm", container)
