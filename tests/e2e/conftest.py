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
def running():
    """Programs that tests have started and that are still to be stopped."""
    programs = []
    yield programs
    end(programs)


def end(programs, first=0):
    """Stops all programs from index `first` on, together, and checks that none of them panicked."""
    ending, programs[first:] = programs[first:], []
    for program in ending:
        program.process.terminate()
    for program in ending:
        program.stop()
        assert "panicked at" not in program.log.read_text(), f"a panic in {program.log}"


@pytest.fixture(scope="session")
def start(running, tmp_path_factory):
    """Starts a program of this workspace; it stops with the test, or with the file whose fixture started it."""

    def start(name, *arguments, within=()):
        log = tmp_path_factory.mktemp(name) / "stderr.log"
        running.append(Program([*within, TARGET / name, *arguments], log))
        return running[-1]

    return start


@pytest.fixture(scope="module", autouse=True)
def _programs_end_with_their_file(running):
    first = len(running)
    yield
    end(running, first)


@pytest.fixture(autouse=True)
def _programs_end_with_their_test(running):
    # Programs that fixtures of the whole file need have been started before this.
    first = len(running)
    yield
    end(running, first)


@pytest.fixture(scope="module")
def recorder():
    """An upstream that records its requests, one per test file."""
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
def balancer(start_fleet, running):
    """A balancer over four workers with the built-in models, for all tests."""
    balancer = start_fleet(4)
    running.remove(balancer)
    yield balancer
    end([balancer])


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
    """A model repository with MobileNetV2, added by `worker pull --from`."""
    weights = DATA / "mobilenet_v2" / "model.safetensors"
    if not weights.exists():
        pytest.skip("SKIPPED: IMAGEFLEET_TEST_DATA has no mobilenet_v2/model.safetensors")
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models", models, dirs_exist_ok=True)
    command = [TARGET / "worker", "pull", "mobilenet_v2", "--from", weights, "--models", models]
    subprocess.run(command, check=True, timeout=120)
    return models


def pytest_terminal_summary(terminalreporter):
    """Adds the skipped tests to the list that `scripts/test.sh` prints and judges."""
    path = os.environ.get("IMAGEFLEET_SKIPS")
    if not path:
        return
    with open(path, "a", encoding="utf-8") as file:
        for report in terminalreporter.stats.get("skipped", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reason = reason.removeprefix("Skipped: ").removeprefix("SKIPPED: ")
            file.write(f"{report.nodeid}: {' '.join(reason.split())}\n")
