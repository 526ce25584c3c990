"""What systemd does with the balancer: it holds its socket, and restarts it while clients connect."""

import os
import re
import shutil
import socket
import subprocess
import time

import pytest
import requests

from conftest import TARGET
from fleet import ROOT, Threads, eventually

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
RESTARTS = 4
# As systemd starts a service with a socket unit: descriptor 3, and the PID that it is meant for.
AS_SYSTEMD = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("SKIPPED: no systemd-analyze here")
    for one in UNITS:
        installed = re.sub(r"/opt/imagefleet/bin", str(TARGET), one.read_text())
        (tmp_path / one.name).write_text(installed)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in verified.stderr.splitlines() if "imagefleet" in line]
    assert not complaints and verified.returncode == 0, verified.stderr


def test_a_signal_for_the_balancer_is_none_for_the_workers_that_it_has_spawned():
    unit = (ROOT / "deploy" / "systemd" / "imagefleet-balancer.service").read_text()
    assert re.findall(r"^KillMode=(.*)$", unit, re.MULTILINE) == ["mixed"]
    printed = [line for page in (ROOT / "docs").rglob("*.md") for line in re.findall(r"`(systemctl kill [^`]+)`", page.read_text())]
    assert printed and [line for line in printed if "--kill-who=main" not in line] == []


def test_the_service_may_write_to_the_access_logs_that_the_guides_name():
    unit = (ROOT / "deploy" / "systemd" / "imagefleet-balancer.service").read_text()
    assert "ProtectSystem=strict" in unit
    writable = [f"/var/log/{name}" for name in re.findall(r"^LogsDirectory=(.*)$", unit, re.MULTILINE)]
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    named = [path for page in pages for path in re.findall(r"(/var/log/[\w./-]+)/[\w.-]+\.log\b", page)]
    assert named and set(named) == set(writable)


def test_what_a_gpu_needs_opens_what_the_workers_unit_closes(tmp_path):
    unit = (ROOT / "deploy" / "systemd" / "imagefleet-worker.service").read_text()
    [opened] = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "inference.md").read_text(), re.DOTALL)
    closed = re.findall(r"^(\w+)=yes$", unit, re.MULTILINE)
    assert set(re.findall(r"^(\w+)=no$", opened, re.MULTILINE)) == {"PrivateDevices", "MemoryDenyWriteExecute"} <= set(closed)
    if not shutil.which("systemd-analyze"):
        pytest.skip("SKIPPED: no systemd-analyze here")
    installed = tmp_path / "imagefleet-worker.service"
    installed.write_text(unit.replace("/opt/imagefleet/bin/worker", shutil.which("true")))
    (tmp_path / "imagefleet-worker.service.d").mkdir()

    def complaints(text):
        (tmp_path / "imagefleet-worker.service.d" / "override.conf").write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", installed]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        return [line for line in said.splitlines() if "imagefleet" in line]

    assert complaints(opened.replace("PrivateDevices", "PrivateDevice")), "the drop-in is read"
    assert not complaints(opened)


class Service:
    """The balancer with a socket that outlives it."""

    def __init__(self, upstream, log):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.upstream, self.log = upstream, log.open("wb")

    def start(self):
        held = self.listener.fileno()
        os.set_inheritable(held, True)
        command = ["bash", "-c", AS_SYSTEMD, str(held), TARGET / "balancer", "--admin", "127.0.0.1:0"]
        # The address in the flag must not matter: this one is already in use.
        command += ["--listen", self.url.removeprefix("http://"), "--worker", self.upstream]
        self.process = subprocess.Popen(
            [str(part) for part in command], pass_fds=[held], stdout=subprocess.DEVNULL, stderr=self.log
        )

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=40) == 0

    def close(self):
        self.process.kill()
        self.process.wait()
        self.listener.close()
        self.log.close()


class Clients(Threads):
    """Half of them keep their connection, half open one per request."""

    def __init__(self, url, threads):
        self.failures, self.answered = [], 0
        self.numbers = iter(range(threads))
        super().__init__(threads, self._ask, url)

    def _ask(self, url):
        keeps = next(self.numbers) % 2 == 0
        with requests.Session() as session:
            while not self.ending.is_set():
                headers = {} if keeps else {"connection": "close"}
                try:
                    answer = session.post(f"{url}/predict", data=b"x", headers=headers, timeout=60)
                    if answer.status_code != 200:
                        self.failures.append((answer.status_code, answer.text))
                except requests.RequestException as error:
                    self.failures.append((0, str(error)))
                self.answered += 1


def test_restarts_with_a_socket_that_systemd_holds_lose_nothing(recorder, tmp_path):
    service = Service(recorder.address, tmp_path / "stderr.log")
    try:
        service.start()
        with Clients(service.url, threads=6) as clients:
            for _ in range(RESTARTS):
                wanted = clients.answered + 100
                eventually(lambda: clients.answered >= wanted, 60, "answers go on")  # noqa: B023
                service.stop()
                time.sleep(0.1)  # like RestartSec: clients connect, and are not accepted
                service.start()
            wanted = clients.answered + 100
            eventually(lambda: clients.answered >= wanted, 60, "answers go on")
        print(f"{RESTARTS} restarts, {clients.answered} answers, failures: {clients.failures[:4]}")
        assert not clients.failures, clients.failures[:4]
    finally:
        service.close()
