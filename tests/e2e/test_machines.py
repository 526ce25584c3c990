"""scripts/install.sh and the packages on machines that boot their own systemd, under load.

The machines are those of an RSpec with two workers, each set up by the command that the RSpec itself
names. The tests do what operators do, and count the outcomes from the client's machine.
"""

import os
import re
import shutil
import subprocess

import pytest
import requests
from conftest import TARGET
from engine import inside
from fleet import ROOT, eventually
from machines import Load, Slice, archive, deb, skip_without_machines, two_releases
from pictures import digit, encode


TOKEN = "0123456789abcdef0123456789abcdef"
# The first test packs, boots and installs.
pytestmark = pytest.mark.timeout(400)
under_load = pytest.mark.skipif(
    os.environ.get("IMAGEFLEET_MACHINES") != "1",
    reason="SKIPPED: machines under load take minutes: IMAGEFLEET_MACHINES=1 runs them",
)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    skip_without_machines()
    out = tmp_path_factory.mktemp("releases")
    two_releases(TARGET, out)
    return out


@pytest.fixture(scope="module")
def fleet(releases, tmp_path_factory):
    """The machines of an RSpec, installed as it says."""
    folder = tmp_path_factory.mktemp("machines")
    rspec = folder / "request.rspec"
    command = [TARGET / "client", "slice", "rspec", "--workers", "2"]
    rspec.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    fleet = Slice(rspec, folder, releases)
    try:
        fleet.install("1.0.0")
        yield fleet
    finally:
        fleet.close()


def test_a_picture_is_uploaded_from_the_machine_of_the_client(fleet):
    assert fleet.ask(encode(digit(7))).text == '"7"\n'
    with inside(fleet.client.namespace):
        page = requests.get(fleet.url, headers={"Accept": "text/html"}, timeout=10)
    assert "What is in the picture?" in page.text


def test_services_are_confined_and_belong_to_a_user_without_rights(fleet):
    for machine, service in [(fleet.hub, "imagefleet-balancer"), (fleet.workers[0], "imagefleet-worker")]:
        process = machine.process(service)
        status = machine.run("cat", f"/proc/{process}/status")
        assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
        assert machine.run("stat", "--format=%U", f"/proc/{process}") == "imagefleet"


def program(machine, service):
    """Digest of the program that a service runs."""
    return machine.run("sha256sum", f"/proc/{machine.process(service)}/exe").split()[0]


@under_load
def test_restarts_and_upgrades_of_every_part_under_load_lose_nothing(fleet):
    one, two = fleet.workers
    before = [program(fleet.hub, "imagefleet-balancer"), program(one, "imagefleet-worker")]
    with Load(fleet) as load:
        fleet.hub.run("systemctl", "restart", "imagefleet-balancer")
        load.wait(200)
        one.run("systemctl", "restart", "imagefleet-worker")
        load.wait(200)
        fleet.wait_for_all()
        two.run("systemctl", "kill", "--signal=SIGKILL", "imagefleet-worker")
        load.wait(200)
        fleet.wait_for_all()
        for worker in fleet.workers:
            fleet.upgrade(worker, "1.1.0", "worker", "--no-pull")
            fleet.wait_for_all()
            load.wait(200)
        fleet.upgrade(fleet.hub, "1.1.0", "balancer")
        load.wait(200)
    print(load.summary["requests"], load.summary["outcomes"], load.summary["latency_ms"])
    assert not load.lost(), load.summary["outcomes"]
    after = [program(fleet.hub, "imagefleet-balancer"), program(one, "imagefleet-worker")]
    assert not set(before) & set(after)
    with inside(one.namespace):
        status = requests.get("http://127.0.0.1:8501/v1/models/iris_model", timeout=10).json()
    assert "2" in {version["version"] for version in status["model_version_status"]}


@under_load
def test_a_balancer_that_is_killed_refuses_nobody(fleet):
    """Requests inside it are lost; clients that connect while it is down wait in the socket that systemd holds."""
    with Load(fleet) as load:
        process = fleet.hub.process("imagefleet-balancer")
        fleet.hub.run("sh", "-c", f"kill -9 {process}")
        eventually(lambda: fleet.hub.process("imagefleet-balancer") not in (0, process), 30, "it is back")
        load.wait(200)
    print(load.summary["requests"], load.summary["outcomes"])
    assert set(load.lost()) <= {"closed"}, load.summary["outcomes"]


@under_load
def test_an_upgrade_that_does_not_answer_is_taken_back(fleet, releases):
    broken = releases / "broken"
    broken.mkdir()
    # It knows its version and nothing else.
    (broken / "worker").write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    (broken / "worker").chmod(0o755)
    worker = fleet.workers[0]
    before, settings = program(worker, "imagefleet-worker"), worker.run("cat", "/etc/imagefleet/worker.env")
    worker.write("/srv/join.token", TOKEN)
    script = f"/media/{archive('1.1.0')}/scripts/install.sh"
    joins = ["--join", "10.10.1.2:5000", "--join-token-file", "/srv/join.token"]
    done = worker.attempt(script, "worker", "--no-pull", "--bin-dir", "/media/broken", *joins)
    assert done.returncode != 0
    assert "The one before was started again" in done.stderr, done.stderr
    fleet.wait_for_all()
    assert program(worker, "imagefleet-worker") == before
    assert worker.run("cat", "/etc/imagefleet/worker.env") == settings
    assert "join.token" not in worker.run("ls", "/etc/imagefleet")


def test_settings_that_the_balancer_refuses_cost_nothing(fleet):
    process, settings = fleet.hub.process("imagefleet-balancer"), "/etc/imagefleet/balancer.env"
    before = fleet.hub.run("cat", settings)
    script = f"/media/{archive('1.0.0')}/scripts/install.sh"
    done = fleet.hub.attempt(script, "balancer", "--worker", "10.10.1.1")
    assert done.returncode != 0
    assert "10.10.1.1" in done.stderr and "nothing was restarted" in done.stderr, done.stderr
    assert fleet.hub.run("cat", settings) == before
    assert fleet.hub.process("imagefleet-balancer") == process
    assert fleet.ask(encode(digit(7))).ok


# Stands in for cargo: provides the requested program, which has been built already.
CARGO = """#!/bin/sh
[ "$1" != --version ] || { echo cargo 99.0.0; exit; }
[ "$*" = "build --release --locked --package worker" ] || exit 9
mkdir -p target/release && cp /media/later/worker target/release/
echo "of a clone" >>target/release/worker
"""


@under_load
def test_a_worker_is_built_and_installed_from_a_clone(fleet, releases):
    clone = releases / "clone"
    command = ["git", "ls-files", "scripts", "deploy", "rspec", "models", "Cargo.toml"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    worker = fleet.workers[0]
    worker.run("cp", "-R", "/media/clone", "/srv/clone")
    worker.write("~/.cargo/bin/cargo", CARGO)
    # There is no internet to install a compiler from; cc and curl need only exist.
    for tool in ("~/.cargo/bin/cargo", "/usr/local/bin/cc", "/usr/local/bin/curl"):
        worker.run("sh", "-c", f"touch {tool} && chmod 755 {tool}")
    before = program(worker, "imagefleet-worker")
    worker.run("/srv/clone/scripts/install.sh", "worker", "--no-pull")
    fleet.wait_for_all()
    assert program(worker, "imagefleet-worker") != before
    assert fleet.ask(encode(digit(7))).ok
    worker.run("rm", "-r", "/srv/clone")


@under_load
def test_workers_join_and_a_restart_of_the_balancer_and_of_each_of_them_loses_nothing(fleet):
    for machine in [fleet.hub, *fleet.workers]:
        machine.write("/srv/join.token", TOKEN)
    token = ["--join-token-file", "/srv/join.token"]
    # The RSpec lists these same workers, which would otherwise stay.
    fleet.upgrade(fleet.hub, "1.1.0", "--uninstall", "balancer")
    fleet.upgrade(fleet.hub, "1.1.0", "balancer", "--accept-joins", *token)
    for number, worker in enumerate(fleet.workers, 1):
        fleet.upgrade(worker, "1.1.0", "worker", "--no-pull", "--join", f"10.10.{number}.2:5000", *token)
    fleet.wait_for_all()
    assert {endpoint["joined_seconds_ago"] is None for endpoint in fleet.endpoints()} == {False}
    with Load(fleet) as load:
        fleet.hub.run("systemctl", "restart", "imagefleet-balancer")
        load.wait(200)
        fleet.wait_for_all()
        for worker in fleet.workers:
            worker.run("systemctl", "restart", "imagefleet-worker")
            load.wait(200)
            fleet.wait_for_all()
    print(load.summary["requests"], load.summary["outcomes"], load.summary["latency_ms"])
    assert not load.lost(), load.summary["outcomes"]
    # Listed by address again, as before; that the workers still join, from the same addresses, does not matter.
    fleet.upgrade(fleet.hub, "1.1.0", "balancer", "--worker", "10.10.1.1:8501", "--worker", "10.10.2.1:8501")
    fleet.wait_for_all()


def test_a_balancer_listens_where_its_settings_say(fleet):
    settings = "/etc/imagefleet/balancer.local.env"
    fleet.hub.write(settings, "BALANCER_LISTEN=:5001\n")
    fleet.upgrade(fleet.hub, "1.1.0", "balancer")
    with inside(fleet.client.namespace):
        assert requests.get(fleet.url.replace(":5000", ":5001"), timeout=10).ok
        with pytest.raises(requests.ConnectionError):
            requests.get(fleet.url, timeout=10)
    fleet.hub.run("rm", settings)
    fleet.upgrade(fleet.hub, "1.1.0", "balancer")
    fleet.wait_for_all()
    assert fleet.ask(encode(digit(7))).ok


def left_behind(machine):
    """Files of an installation, except for the sources that the test itself has put there."""
    pruned = " -o ".join(f"-path {path} -prune" for path in ("/media", "/local", "/proc", "/tmp", "/var/tmp"))
    found = machine.run("sh", "-c", f"find / -xdev {pruned} -o -name '*imagefleet*' -print").split()
    return [path for path in found if path != "/etc/imagefleet-packages"]


@under_load
def test_packages_install_and_upgrade_under_load_and_leave_nothing(fleet):
    worker, hub = fleet.workers[0], fleet.hub
    refused = worker.attempt("dpkg", "--install", deb("worker", "1.0.0"))
    assert refused.returncode != 0 and "install.sh --uninstall worker" in refused.stderr
    fleet.upgrade(hub, "1.1.0", "--uninstall")
    hub.write("/etc/imagefleet/balancer.local.env", "BALANCER_WORKER=10.10.1.1:8501,10.10.2.1:8501\n")
    hub.run("dpkg", "--install", deb("balancer", "1.0.0"))
    fleet.wait_for_all()
    with Load(fleet) as load:
        fleet.upgrade(worker, "1.1.0", "--uninstall", "worker")
        worker.run("dpkg", "--install", deb("worker", "1.0.0"))
        fleet.wait_for_all()
        worker.run("dpkg", "--install", deb("worker", "1.1.0"))
        fleet.wait_for_all()
        hub.run("dpkg", "--install", deb("balancer", "1.1.0"))
        load.wait(200)
    print(load.summary["requests"], load.summary["outcomes"])
    assert not load.lost(), load.summary["outcomes"]
    for machine, role in [(worker, "worker"), (hub, "balancer")]:
        assert f"/usr/share/man/man1/imagefleet-{role}.1.gz" in machine.run("dpkg", "--listfiles", f"imagefleet-{role}")
        machine.run("dpkg", "--purge", f"imagefleet-{role}")
        assert not left_behind(machine)


def test_uninstalling_leaves_nothing(fleet):
    worker = fleet.workers[1]
    fleet.upgrade(worker, "1.1.0", "--uninstall", "--purge")
    assert not left_behind(worker)
    assert worker.attempt("getent", "passwd", "imagefleet").returncode != 0
