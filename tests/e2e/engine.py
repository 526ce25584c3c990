"""Docker engines for the tests, each in its own network namespace.

The machine's network is not touched and none of its ports is taken: a test enters the engine's
namespace and finds the published ports on its loopback interface. Several engines are joined by a
bridge in one more namespace. All of it is removed with the test.
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import pytest

NEEDED = ("dockerd", "docker", "ip", "nsenter", "iptables")
CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)


def skip_without_engine():
    """Skips loudly if something that an engine needs is missing."""
    if os.environ.get("IMAGEFLEET_DOCKER") == "0":
        pytest.skip("SKIPPED: no Docker engine is wanted (IMAGEFLEET_DOCKER=0)")
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: only root can start a Docker engine")
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        pytest.skip(f"SKIPPED: a Docker engine needs {', '.join(missing)} (Debian: apt install docker.io)")


def skip_without_stacks():
    """Skips loudly if Docker's command line is older than compose files without a version."""
    said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)", said)
    if not found or int(found[1]) < 25:
        pytest.skip(f"SKIPPED: stacks need Docker's command line 25 or newer: {said.strip()}")


def run(*command, **kwargs):
    """The standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


@contextlib.contextmanager
def inside(namespace):
    """Moves this thread, and those that it starts, into a network namespace while the block lasts."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path):
        with open(path, "rb") as opened:
            if libc.setns(opened.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {path}")

    with open("/proc/thread-self/ns/net", "rb") as before:
        enter(f"/run/netns/{namespace}")
        try:
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


class Network:
    """A bridge between engines, in its own namespace."""

    def __init__(self):
        self.name = f"fleet-switch-{os.getpid()}-{next(_numbers)}"
        self._engines = 0
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "add", "name", "bridge", "type", "bridge")
        run("ip", "-n", self.name, "link", "set", "bridge", "up")

    def join(self, namespace):
        """Connects a namespace to the network and returns its address."""
        self._engines += 1
        port = f"port{self._engines}"
        address = f"10.231.7.{self._engines}"
        run("ip", "-n", self.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "-n", self.name, "link", "set", port, "master", "bridge", "up")
        run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        return address

    def close(self):
        run("ip", "netns", "delete", self.name)


class Engine:
    """A running engine with its own data."""

    def __init__(self, folder, network=None):
        self.name = f"fleet-engine-{os.getpid()}-{next(_numbers)}"
        self.socket = f"unix://{folder}/docker.sock"
        self.environment = {**os.environ, "DOCKER_HOST": self.socket}
        self.environment.pop("DOCKER_CONTEXT", None)
        self._folder = folder
        self._log = folder / "dockerd.log"
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        self.address = network.join(self.name) if network else None
        with self._log.open("wb") as log:
            command = ["nsenter", f"--net=/run/netns/{self.name}", "dockerd", "--host", self.socket]
            for option, path in [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")]:
                command += [f"--{option}", folder / path]
            self._daemon = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self._wait_until_it_answers()

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "info"], env=self.environment, capture_output=True, check=False).returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text()[-600:]
                self.close()
                pytest.skip(f"SKIPPED: no Docker engine starts here: {said}")
            time.sleep(0.1)

    def docker(self, *arguments):
        """The output of a `docker` command."""
        return run("docker", *arguments, env=self.environment)

    def inspect(self, name, kind="container"):
        return json.loads(self.docker(kind, "inspect", name))[0]

    def close(self):
        """Ends the engine, its containers and its network."""
        with contextlib.suppress(AssertionError):
            if containers := self.docker("ps", "--quiet").split():
                self.docker("kill", *containers)
        self._daemon.terminate()
        try:
            self._daemon.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        run("ip", "netns", "delete", self.name)
        # Removes the images, which are of no use when a test has failed; the log stays.
        for data in ("data", "exec"):
            shutil.rmtree(self._folder / data, ignore_errors=True)
