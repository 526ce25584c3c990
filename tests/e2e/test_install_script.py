"""scripts/install.sh on a machine made of folders: what it keeps of an earlier installation, and what it prints."""

import os
import shutil
import subprocess

import pytest

from fleet import ROOT

FOLDERS = {
    "opt": "/opt/imagefleet",
    "state": "/var/lib/imagefleet",
    "etc": "/etc/imagefleet",
    "system": "/etc/systemd/system",
    "logs": "/var/log/imagefleet",
}
# Paths of a machine without systemd.
OTHERS = ["/run/systemd/system", "/run/imagefleet-", "/var/log/$name.log"]
# Only root can set owners and add users. The command named by $FULL fails as on a full disk.
STUBS = {
    "id": '[ "$1" != -u ] || echo 0',
    "chown": "true",
    "useradd": "true",
    "userdel": "true",
    "install": 'for each; do shift; case $each in -o | -g) skip=1 ;; *) [ "$skip" ] || set -- "$@" "$each"; skip= ;; esac; done; exec /usr/bin/install "$@"',
    "setpriv": 'while case $1 in --*) ;; *) false ;; esac; do shift; done; exec "$@"',
    "cp": '/bin/cp "$@" && ! [ "$FULL$1" = cp-R ]',
    "cat": 'if [ "$FULL" = cat ] && [ $# = 0 ]; then printf WORK; exit 1; fi; exec /bin/cat "$@"',
}
# A healthy worker that cannot fetch anything.
WORKER = """#!/bin/sh
[ "$1" != healthcheck ] || echo http://127.0.0.1:8501
[ "$1" != pull ]
# %s
"""


class Machine:
    """A release whose script puts everything below the test's own folder."""

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
        for path in OTHERS:
            assert path in text
            text = text.replace(path, f"{self.root}{path}")
        for path in ("run", "var/log"):
            (self.root / path).mkdir(exist_ok=True)
        self.script.write_text(text)
        self.state = self.root / "var" / "lib" / "imagefleet"
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name, text in STUBS.items():
            (self.stubs / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.stubs / name).chmod(0o755)
        self.etc = self.root / "etc" / "imagefleet"
        self.token = folder / "join.token"
        self.token.write_text("0123456789abcdef0123456789abcdef\n")

    def plan(self, *arguments):
        """What the script would do."""
        command = [self.script, *arguments, "--bin-dir", "/nowhere", "--no-pull", "--dry-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments, full=""):
        """The outcome of a call."""
        environment = {"PATH": f"{self.stubs}:{os.environ['PATH']}", "FULL": full}
        return subprocess.run([self.script, *arguments], env=environment, capture_output=True, text=True, check=False)

    def provide(self, text):
        """A release with this worker, and one version of one model."""
        for path, content in (("bin/worker", WORKER % text), ("models/digits/1/model.toml", "")):
            (self.release / path).parent.mkdir(parents=True, exist_ok=True)
            (self.release / path).write_text(content)
        (self.release / "bin" / "worker").chmod(0o755)

    def files(self):
        """All installed files, except for the PID file and the output."""
        folders = [self.root / path[1:] for path in FOLDERS.values()]
        return {str(path.relative_to(self.root)): path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file()}

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


@pytest.mark.parametrize("full", ["cp", "cat"])
def test_a_disk_that_is_full_leaves_what_was_there_and_the_next_call_does_it_all(machine, full):
    machine.provide("first")
    joins = ["--join", "10.0.0.1:5000", "--join-token-file", machine.token]
    first = machine.run("worker", "--no-pull", *joins)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(machine.state / "models" / "digits")
    before = machine.files()
    machine.provide("second")
    failed = machine.run("worker", "--no-pull", "--join", "10.0.0.9:5000", "--join-token-file", machine.token, full=full)
    assert failed.returncode != 0 and "is there again" in failed.stderr, failed.stderr
    after = {path: text for path, text in machine.files().items() if "/models/" not in path}
    assert after == before
    again = machine.run("worker", "--no-pull")
    assert again.returncode == 0, again.stderr
    models = {"var/lib/imagefleet/models/digits/1/model.toml": ""}
    assert machine.files() == before | models | {"opt/imagefleet/bin/worker": WORKER % "second"}


def test_the_token_may_be_the_installed_one_and_goes_with_the_last_role_that_needs_it(machine):
    machine.provide("here")
    installed = machine.etc / "join.token"
    assert machine.run("worker", "--no-pull", "--join", "10.0.0.1:5000", "--join-token-file", machine.token).returncode == 0
    again = machine.run("worker", "--no-pull", "--join", "10.0.0.2:5000", "--join-token-file", installed)
    assert again.returncode == 0, again.stderr
    assert installed.read_text() == machine.token.read_text()
    (machine.etc / "balancer.local.env").write_text(f'BALANCER_JOIN_TOKEN_FILE="{installed}"\n')
    for role, is_left in (("worker", True), ("balancer", False)):
        gone = machine.run("--uninstall", "--purge", role)
        assert gone.returncode == 0, gone.stderr
        assert installed.exists() == is_left, role
    assert machine.files() == {}


def test_a_model_that_cannot_be_fetched_is_fetched_later_by_the_command_that_is_printed(machine):
    machine.provide("here")
    done = machine.run("worker")
    assert done.returncode == 0, done.stderr
    program, models = machine.root / "opt/imagefleet/bin/worker", machine.state / "models"
    assert f"sudo -u imagefleet {program} pull mobilenet_v2 --models {models}" in done.stderr


def test_what_root_builds_in_a_clone_belongs_to_the_owner_of_the_clone(machine):
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    command = [machine.script, "balancer", "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build = "+ cargo build --release --locked --package balancer\n"
    assert f"{build}+ chown -R --reference=. target\n" in done.stdout


HELPFUL = ["scripts/fetch-test-data.sh", "scripts/images.sh", "scripts/install.sh", "scripts/package.sh", "scripts/release-build.sh", "scripts/run.sh", "tests/kubernetes/lab.sh"]


@pytest.mark.parametrize("script", HELPFUL)
def test_help_is_printed_wherever_a_script_is_called_from(script):
    folder, _, name = script.rpartition("/")
    done = subprocess.run([f"./{name}", "--help"], cwd=ROOT / folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert script in done.stdout and "set -euo" not in done.stdout


def test_a_wrong_call_is_explained_wherever_it_comes_from():
    done = subprocess.run(["./install.sh", "workers"], cwd=ROOT / "scripts", capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "scripts/install.sh worker" in done.stderr and "unknown argument workers" in done.stderr
