"""tests/kubernetes/run.sh with a fake `kubectl`: it does not wait for ever for something that never happens."""

import contextlib
import http.server
import os
import signal
import subprocess
import threading

import pytest

from fleet import ROOT

# A healthy cluster, except for what CASES replaces.
KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) {way} ;;
  *jsonpath=*waiting.reason*) printf 'Pending ImagePullBackOff' ;;
  *jsonpath=*phase*) printf {phase} ;;
  *jsonpath=*Replicas*) printf 1 ;;
  *apply*--filename\\ -*) cat >/dev/null ;;
esac
"""
OPEN = "echo 'Forwarding from 127.0.0.1:{port} -> 80'; exec sleep 60"
CASES = {
    "a way that closes": ("exit 1", "Running", "ended before there was a way"),
    "a way that never opens": ("exec sleep 60", "Running", "opens no way"),
    "an image that cannot be pulled": (OPEN, "Pending", "pod users: does not begin: Pending ImagePullBackOff"),
}


class Seven(http.server.BaseHTTPRequestHandler):
    """A service that recognises a seven in everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"7"')


@pytest.fixture(scope="module")
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Seven) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_a_cluster_where_something_never_happens_ends_and_says_what(case, port, tmp_path):
    way, phase, words = CASES[case]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(way=way.format(port=port), phase=phase))
    kubectl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PATIENCE": "1"}
    command = [ROOT / "tests" / "kubernetes" / "run.sh"]
    with (tmp_path / "said").open("wb") as said:
        script = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
        try:
            status = script.wait(timeout=60)
        finally:
            # Together with everything that it has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()
    text = (tmp_path / "said").read_text()
    assert status == 1 and words in text, text
