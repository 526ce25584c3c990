"""How a worker answers bodies that its libraries, or other parsers, would read differently."""

import base64
import os
import shutil
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from fleet import ROOT, eventually, resident_memory
from pictures import digit, encode
from worker_inputs import CASES, SEVEN, TURNED, picture, rows_of


@pytest.fixture(scope="module")
def worker(start):
    # Libraries add source locations to their errors, which clients must not see.
    traced = ["env", "RUST_BACKTRACE=1"]
    return start("worker", "serve", "--listen", "127.0.0.1:0", "--models", str(ROOT / "models"), within=traced)


def has_source(text):
    return any(word in text for word in ("::", ".rs", "/rustc/", str(ROOT)))


def ask(worker, path, body, headers):
    return requests.post(worker.url + path, data=body, headers={"accept": "application/json"} | headers, timeout=60)


@pytest.mark.parametrize("name", CASES)
def test_an_input_has_one_answer(worker, name):
    status, words, question = CASES[name]
    answer = ask(worker, *question)
    assert answer.status_code == status, answer.text[:300]
    assert status == 200 or words in answer.json()["error"], answer.text[:300]
    assert not has_source(answer.text), answer.text[:2000]


def test_why_a_model_does_not_load_is_told_without_the_programs_own_source(start, tmp_path):
    """Errors of the tensor library, and of the system, with backtraces on."""
    for name in ("short", "empty", "other"):
        shutil.copytree(ROOT / "models" / "mnist", tmp_path / name)
    weights = {name: tmp_path / name / "1" / "weights.safetensors" for name in ("short", "empty", "other")}
    weights["short"].write_bytes(weights["short"].read_bytes()[:-1000])
    weights["empty"].write_bytes(b"")
    shutil.copy(ROOT / "models" / "iris_model" / "1" / "weights.safetensors", weights["other"])
    traced = ["env", "RUST_BACKTRACE=full"]
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", tmp_path, within=traced)
    for name in weights:
        answer = ask(worker, f"/v2/repository/models/{name}/load", b"", {})
        assert answer.status_code == 400 and "weights.safetensors" in answer.json()["error"], answer.text
        state = requests.get(f"{worker.url}/v1/models/{name}", timeout=30)
        for text in (answer.text, state.text):
            assert not has_source(text) and str(tmp_path) not in text, text[:2000]
    index = ask(worker, "/v2/repository/index", b"", {})
    assert [model["state"] for model in index.json()] == ["UNAVAILABLE"] * 3, index.text
    assert not has_source(index.text) and str(tmp_path) not in index.text, index.text[:2000]


def test_packed_bodies_are_unpacked(worker):
    path, body, _ = rows_of(base64.b64encode(SEVEN).decode())
    plain = ask(worker, path, body, {})
    assert plain.status_code == 200
    packed = ask(worker, path, zlib.compress(body), {"content-encoding": "deflate"})
    assert packed.json() == plain.json()


@pytest.mark.parametrize("kind", TURNED)
def test_the_camera_is_turned_wherever_a_format_says_how(worker, kind):
    answer = ask(worker, *picture(TURNED[kind]))
    assert (answer.status_code, answer.json().get("label")) == (200, "7"), answer.text


def test_a_request_names_its_host(worker):
    parts = urlsplit(worker.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        assert connection.recv(100).split()[1] == b"400"


def test_memory_is_what_it_was_after_all_of_them(start):
    """Inputs after which the memory of a process has grown without bound."""
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", str(ROOT / "models"))
    photo = encode(digit(7, size=1200).convert("RGB"), "JPEG")
    usual = [picture(photo), CASES["the best classes"][2]] * 20
    # Concurrently, so that every thread of the worker has had its share before the measurement.
    with ThreadPoolExecutor(8) as clients:
        assert {answer.status_code for answer in clients.map(lambda question: ask(worker, *question), usual)} == {200}
    resident = lambda: resident_memory(worker.process.pid)  # noqa: E731
    before = resident()
    for _ in range(3):
        for status, _, question in CASES.values():
            assert ask(worker, *question).status_code == status
    # The memory that they leave in use is given back during a pause.
    eventually(lambda: resident() <= 1.1 * before + 5, 30, f"{before} MB again, and not {resident()}")


def test_files_that_are_no_pictures_eject_no_worker(start):
    workers = [start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models") for _ in range(2)]
    addresses = [flag for worker in workers for flag in ("--worker", worker.address)]
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *addresses)
    admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
    good = picture(SEVEN)
    eventually(lambda: ask(balancer, *good).status_code == 200, 30, "a picture is read")
    bad = [name for name, (status, _, (path, *_)) in CASES.items() if status >= 400 and path in ("/predict", "/submit")]
    assert len(bad) > 5
    for name in bad:
        status, _, question = CASES[name]
        # More than enough to eject both, if these were counted as failures.
        assert [ask(balancer, *question).status_code for _ in range(10)] == [status] * 10, name
    endpoints = requests.get(f"{admin}/fleet.json", timeout=10).json()["endpoints"]
    assert [endpoint["state"] for endpoint in endpoints] == ["available"] * 2, endpoints
    metrics = requests.get(f"{admin}/metrics", timeout=10).text
    ejections = [line for line in metrics.splitlines() if line.startswith("balancer_ejections_total")]
    assert all(line.endswith(" 0") for line in ejections), ejections
    assert ask(balancer, *good).status_code == 200


def test_a_folder_that_a_worker_may_not_read_stops_nothing_else(start, tmp_path):
    shutil.copytree(ROOT / "models" / "mnist", tmp_path / "mnist")
    for name in ("lost+found", "iris_model"):
        shutil.copytree(ROOT / "models" / "iris_model", tmp_path / name)
        (tmp_path / name).chmod(0)
    # Root can read everything, unless its process has dropped the capabilities.
    within = []
    if os.geteuid() == 0:
        for name in ("lost+found", "iris_model"):
            os.chown(tmp_path / name, 65534, 65534)
        if not shutil.which("setpriv"):
            pytest.skip("SKIPPED: no setpriv here (Debian: apt install util-linux)")
        within = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", tmp_path, within=within)
    eventually(lambda: ask(worker, *picture(SEVEN)).status_code == 200, 30, "a picture is read")
    answer = ask(worker, "/v2/repository/models/iris_model/load", b"", {})
    assert answer.status_code == 400, answer.text
    assert "iris_model: Permission denied" in answer.json()["error"] and str(tmp_path) not in answer.text
    # That was not the first time that the folders were scanned.
    for name in ("lost+found", "iris_model"):
        warnings = [line for line in worker.log.read_text().splitlines() if "folder skipped" in line and name in line]
        assert len(warnings) == 1, warnings
    for name in ("lost+found", "iris_model"):
        (tmp_path / name).chmod(0o755)
    assert ask(worker, "/v2/repository/models/iris_model/load", b"", {}).status_code == 200
