"""scripts/install.sh on a machine that is made of folders: what it keeps of what was there, and what it says."""

import shutil
import subprocess

import pytest

from fleet import ROOT

FOLDERS = {"opt": "/opt/imagefleet", "state": "/var/lib/imagefleet", "etc": "/etc/imagefleet", "system": "/etc/systemd/system"}


class Machine:
    """A release whose script puts everything below a folder of the test's own."""

    def __init__(self, folder):
        self.release, self.root = folder / "release", folder / "machine"
        for name in ("install.sh", "toolchain.sh"):
            (self.release / "scripts").mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "scripts" / name, self.release / "scripts")
        self.script = self.release / "scripts" / "install.sh"
        text = self.script.read_text()
        for name, path in FOLDERS.items():
            assert f"{name}={path}" in text
            text = text.replace(f"{name}={path}", f"{name}={self.root}{path}")
            (self.root / path[1:]).mkdir(parents=True)
        self.script.write_text(text)
        self.etc = self.root / "etc" / "imagefleet"
        self.token = folder / "join.token"
        self.token.write_text("0123456789abcdef0123456789abcdef\n")

    def plan(self, *arguments):
        """What it would do."""
        command = [self.script, *arguments, "--bin-dir", "/nowhere", "--no-pull", "--dry-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def settings(self, role, *arguments):
        """The lines that it would write for a role."""
        _, _, text = self.plan(role, *arguments).partition(f"+ write {self.etc}/{role}.env:\n")
        lines = text.splitlines()
        return [line.strip() for line in lines[: next((n for n, line in enumerate(lines) if line[:1] == "+"), len(lines))]]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_call_keeps_the_settings_that_it_does_not_replace(machine):
    joins = ["BALANCER_ACCEPT_JOINS=true", f"BALANCER_JOIN_TOKEN_FILE={machine.etc}/join.token"]
    accept = ["--accept-joins", "--join-token-file", machine.token]
    before = machine.etc / "balancer.env"
    assert machine.settings("balancer", *accept) == joins
    assert machine.settings("balancer") == [f"BALANCER_RSPEC={machine.etc}/slice.rspec"]
    for workers in (["BALANCER_WORKER=10.0.0.7:8501"], [f"BALANCER_RSPEC={machine.etc}/slice.rspec"]):
        before.write_text("\n".join(workers) + "\n")
        assert machine.settings("balancer", *accept) == joins + workers
        assert machine.settings("balancer") == []
    before.write_text("\n".join([*joins, "BALANCER_WORKER=10.0.0.7:8501"]) + "\n")
    assert machine.settings("balancer", "--worker", "10.0.0.9:8501") == [*joins, "BALANCER_WORKER=10.0.0.9:8501"]
    assert machine.settings("balancer", "--rspec", machine.script) == [*joins, f"BALANCER_RSPEC={machine.etc}/slice.rspec"]
    joined = ["WORKER_JOIN=10.0.0.1:5000", f"WORKER_JOIN_TOKEN_FILE={machine.etc}/join.token"]
    (machine.etc / "worker.env").write_text("\n".join(["WORKER_MODELS=/elsewhere", *joined]) + "\n")
    assert machine.settings("worker")[1:] == joined
