"""The balancer behind nginx and HAProxy, each configured as docs/tls.md prints it."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess

import pytest
import requests
from fleet import ROOT, eventually

GUIDE = ROOT / "docs" / "tls.md"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def printed(language, public, balancer):
    """The configuration that the guide prints, with our own ports."""
    text = re.search(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)[1]
    text, ours = re.subn(r"(listen |bind :)8080", rf"\g<1>{public}", text)
    text, theirs = re.subn(r"127\.0\.0\.1:5000", balancer, text)
    assert (ours, theirs) == (1, 1)
    return text


def needs(program):
    if not shutil.which(program):
        pytest.skip(f"SKIPPED: no {program} here (Debian: apt install nginx haproxy)")
    return shutil.which(program)


@pytest.fixture
def run(tmp_path):
    """Starts a proxy; it ends with the test."""
    started = []

    def run(*command):
        log = (tmp_path / "proxy.log").open("w")
        started.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))

    yield run
    for process in started:
        process.terminate()
        process.wait(20)


def ready(balancer):
    """Waits until its workers are ready, as seen on the admin port, which has no proxy in front."""
    admin = balancer.wait_for(r"admin on (\S+)")
    eventually(lambda: requests.get(f"{admin}/v2/health/ready", timeout=10).ok, 60, "the fleet is ready")


def start_behind(start, log, *flags):
    own = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--spawn", "1", "--models", "models", "--access-log", log)
    balancer = start("balancer", *own, "--trusted-proxy", "127.0.0.1", *flags)
    ready(balancer)
    return balancer


def test_nginx_in_front_as_the_guide_has_it(start, run, tmp_path):
    nginx = needs("nginx")
    balancer = start_behind(start, tmp_path / "access.log")
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    folders = " ".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    site = printed("nginx", port, balancer.address)
    head = f"{user} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
    (tmp_path / "nginx.conf").write_text(f"{head}\nhttp {{\naccess_log off; {folders}\n{site}}}\n")
    run(nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf")
    url = f"http://127.0.0.1:{port}"

    def label():
        with (ROOT / "docs" / "seven.png").open("rb") as file:
            return requests.post(f"{url}/submit", files={"image": file}, timeout=30).text.strip()

    eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 20, "nginx listens")
    assert label() == '"7"'
    # The page prints the address that its reader has used, which only nginx knows.
    page = requests.get(url, headers={"Accept": "text/html"}, timeout=30).text
    assert f"{url}/submit" in page.replace("&#x2f;", "/")
    with requests.get(f"{url}/status/events", timeout=10, stream=True) as events:
        assert next(line for line in events.iter_lines() if line.startswith(b"data:"))
    assert requests.post(f"{url}/v2/repository/models/mnist/unload", timeout=10).status_code == 403
    assert label() == '"7"'


def test_haproxy_in_front_as_the_guide_has_it(start, run, tmp_path):
    haproxy = needs("haproxy")
    log = tmp_path / "access.log"
    balancer = start_behind(start, log, "--proxy-protocol")
    port = free_port()
    (tmp_path / "haproxy.cfg").write_text(printed("haproxy", port, balancer.address))
    run(haproxy, "-db", "-f", tmp_path / "haproxy.cfg")
    eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 20, "HAProxy listens")
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=("127.0.0.2", 0))
    client.request("GET", "/v1/models/mnist")
    assert client.getresponse().status == 200

    def clients():
        return [json.loads(line)["client"] for line in log.read_text().splitlines()]

    eventually(lambda: any(one.startswith("127.0.0.2") for one in clients()), 20, "the log has the client's own address")
