"""The fleet that most tests share, and the loud skips."""

import os
import shutil
import subprocess

import pytest
import requests

from browsing import browse, browsers  # noqa: F401 - fixtures
from fleet import DATA, ROOT, Program, eventually
from pictures import digit, encode
from recording import Recorder

PROFILE = os.environ.get("IMAGEFLEET_PROFILE", "debug")
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / PROFILE


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts a program of this workspace; everything started ends with the session."""
    programs = []

    def start(name, *arguments, within=()):
        log = tmp_path_factory.mktemp(name) / "stderr.log"
        program = Program([*within, TARGET / name, *arguments], log)
        programs.append(program)
        return program

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.stop()
        assert "panicked at" not in program.log.read_text(), f"a panic in {program.log}"


@pytest.fixture(scope="module")
def recorder():
    """An upstream that keeps what it is sent, of one test file."""
    with Recorder() as recorder:
        yield recorder


@pytest.fixture(scope="session")
def start_fleet(start):
    """Starts a balancer that spawns workers, and waits until each of them has answered."""

    def start_fleet(workers, *arguments):
        balancer = start(
            "balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--spawn", str(workers), *arguments
        )
        seen = set()

        def everyone_answered():
            answer = requests.post(f"{balancer.url}/submit", files={"image": encode(digit(1))}, timeout=30)
            seen.add(answer.headers.get("x-imagefleet-endpoint"))
            return len(seen - {None}) == workers

        eventually(everyone_answered, 90, f"answers from {workers} workers")
        balancer.admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
        return balancer

    return start_fleet


@pytest.fixture(scope="session")
def balancer(start_fleet):
    """A balancer over four workers with the built-in models."""
    return start_fleet(4)


@pytest.fixture
def picture(tmp_path):
    """The path of a drawn digit: picture(7), or picture(7, "name.png")."""

    def picture(number, name=None):
        path = tmp_path / (name or f"digit{number}.png")
        path.write_bytes(encode(digit(number)))
        return str(path)

    return picture


@pytest.fixture(scope="session")
def photo_models(tmp_path_factory):
    """A model repository with MobileNetV2 in it, by `worker pull --from`."""
    weights = DATA / "mobilenet_v2" / "model.safetensors"
    if not weights.exists():
        pytest.skip("SKIPPED: IMAGEFLEET_TEST_DATA has no mobilenet_v2/model.safetensors")
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models", models, dirs_exist_ok=True)
    command = [TARGET / "worker", "pull", "mobilenet_v2", "--from", weights, "--models", models]
    subprocess.run(command, check=True, timeout=120)
    return models


def pytest_terminal_summary(terminalreporter):
    """Adds what was skipped to the list that `scripts/test.sh` prints and judges."""
    path = os.environ.get("IMAGEFLEET_SKIPS")
    if not path:
        return
    with open(path, "a", encoding="utf-8") as file:
        for report in terminalreporter.stats.get("skipped", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reason = reason.removeprefix("Skipped: ").removeprefix("SKIPPED: ")
            file.write(f"{report.nodeid}: {' '.join(reason.split())}\n")
