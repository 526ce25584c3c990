"""scripts/run.sh: what a newcomer types first, with programs that are built already."""

import functools
import hashlib
import http.server
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import psutil
import pytest
import requests

from conftest import TARGET
from fleet import DATA, ROOT, eventually
from models import copy_shipped
from pictures import digit, encode

WEIGHTS = DATA / "mobilenet_v2" / "model.safetensors"


class Files(http.server.ThreadingHTTPServer):
    """Serves a folder, in place of the server that publishes models."""

    def __init__(self, folder):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Silent:
    """A server that takes a request and never answers."""

    def __init__(self):
        self.asked, self._ending = threading.Event(), threading.Event()
        silent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                silent.asked.set()
                silent._ending.wait()

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._server.shutdown()

class Script:
    """run.sh with ports that the system chooses."""

    def __init__(self, folder, *flags, **environment):
        self._said = folder / "said"
        command = [ROOT / "scripts" / "run.sh", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--spawn", "1"]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [str(part) for part in (*command, *flags)],
                env={**os.environ, "PROGRAMS": str(TARGET), **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        ready = r"imagefleet is ready: (http://[\w.:]+)/"
        self.url = eventually(lambda: self.found(ready), 90, "the script is ready")[1]

    def found(self, pattern):
        assert self.process.poll() is None, self._said.read_text()
        return re.search(pattern, self._said.read_text())

    def ask(self, picture=7):
        return requests.post(f"{self.url}/submit", files={"image": encode(digit(picture))}, timeout=30)

    def stop(self, by=signal.SIGTERM):
        """Stops the script, and with it everything that it has started."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(by)
        assert self.process.wait(timeout=60) == 0, self._said.read_text()
        _, alive = psutil.wait_procs(started, timeout=20)
        assert not alive


@pytest.fixture
def run(tmp_path):
    """Runs the script on a repository with the digit model."""
    models = copy_shipped(tmp_path / "models", "mnist")
    scripts = []

    def run(*flags, **environment):
        scripts.append(Script(tmp_path, "--models", models, *flags, **environment))
        return scripts[-1]

    yield run
    for script in scripts:
        if script.process.poll() is None:
            script.stop()


def test_the_script_finds_its_balancer_on_ports_that_the_system_chose(run):
    script = run("--no-photos")
    assert script.ask().text == '"7"\n'
    eventually(lambda: script.found(r"POST /submit"), 20, "a line of the access log")
    assert not script.found("Fetching")
    script.stop()


def tools_without(folder, *missing, **instead):
    """A folder of links to all tools except `missing`, with the scripts in `instead` in place of theirs."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for tool in sorted(Path(place).glob("*")):
            link = folder / tool.name
            if tool.name not in missing and not link.is_symlink():
                link.symlink_to(tool)
    for name, text in instead.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


def test_the_script_needs_no_curl(run, tmp_path):
    tools = tools_without(tmp_path / "tools", "curl", "wget")
    assert run("--no-photos", PATH=tools).ask().text == '"7"\n'


def refused(*flags, **environment):
    """The output of the script when it cannot start."""
    ended = subprocess.run(
        [ROOT / "scripts" / "run.sh", "--no-photos", "--spawn", "1", *flags],
        env={**os.environ, "PROGRAMS": str(TARGET), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    assert ended.returncode != 0, ended.stdout
    assert "is ready" not in ended.stdout
    return ended.stdout


def test_another_program_on_a_port_is_never_taken_for_the_balancer(tmp_path):
    (tmp_path / "v2" / "health").mkdir(parents=True)
    (tmp_path / "v2" / "health" / "ready").write_text('{"ready":true}')
    darwin = tools_without(tmp_path / "tools", uname="#!/bin/sh\necho Darwin\n")
    with Files(tmp_path) as other:
        taken = "127.0.0.1:%d" % other.server_address[1]
        said = refused("--listen", taken, "--admin", "127.0.0.1:0")
        assert taken in said and "--listen" in said and "AirPlay" not in said, said
        said = refused("--listen", "127.0.0.1:0", "--admin", taken)
        assert taken in said and "--admin" in said, said
        assert "AirPlay" in refused("--listen", taken, "--admin", "127.0.0.1:0", PATH=darwin)


def test_a_second_script_leaves_the_first_alone(run):
    first = run("--no-photos")
    admin = first.found(r"admin on http://([\w.:]+)")[1]
    taken = first.url.removeprefix("http://")
    assert "--listen" in refused("--listen", taken, "--admin", "127.0.0.1:0")
    assert "--admin" in refused("--listen", "127.0.0.1:0", "--admin", admin)
    assert first.ask().text == '"7"\n'


def test_the_model_for_photos_is_fetched_meanwhile(run, tmp_path):
    if not WEIGHTS.exists():
        pytest.skip("SKIPPED: IMAGEFLEET_TEST_DATA has no mobilenet_v2/model.safetensors")
    name = f"photos-{hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]}.safetensors"
    (tmp_path / name).symlink_to(WEIGHTS)
    with Files(tmp_path) as files:
        script = run(WORKER_URL=files.url(name))
        eventually(lambda: script.found("Photos are recognised now too"), 90, "the model is fetched")
        page = functools.partial(requests.get, script.url, headers={"Accept": "text/html"}, timeout=10)
        eventually(lambda: "a photo or a handwritten digit" in page().text, 60, "the page knows it")
    script.stop()


def test_a_model_for_photos_that_is_not_the_published_one_is_left_out(run, tmp_path):
    (tmp_path / "photos-00000000.pth").write_bytes(b"something else")
    with Files(tmp_path) as files:
        script = run(WORKER_URL=files.url("photos-00000000.pth"))
        eventually(lambda: script.found("Photos are not recognised: .*[0-9a-f]{8}"), 60, "it says why")
    assert script.ask().text == '"7"\n'
    assert not (tmp_path / "models" / "mobilenet_v2").exists()


def test_the_script_ends_while_a_model_is_on_its_way(run):
    with Silent() as server:
        script = run(WORKER_URL=f"http://{server.address}/photos-00000000.pth")
        assert server.asked.wait(timeout=30)
        script.stop()
