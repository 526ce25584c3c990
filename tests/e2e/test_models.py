"""The balancer knows which worker serves what: models, versions and labels behind one address, swaps under load."""

import json
import shutil
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from fleet import Threads, eventually
from models import copy_shipped, write_line
from pictures import digit, encode

ENDPOINT = "x-imagefleet-endpoint"
FLOWER = {"sepal_length": 5.0, "sepal_width": 2.0, "petal_length": 3.5, "petal_width": 1.0}


class Loading(BaseHTTPRequestHandler):
    """A worker whose only model is still loading."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(503, {"ready": False, "live": True})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer(200, [{"name": "giant", "version": "1", "state": "LOADING", "reason": ""}])

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Logs nothing."""


@pytest.fixture(scope="module")
def fleet(start, tmp_path_factory):
    """Digits on one worker, flowers on another, and a third that is loading; two have versions of a line."""
    digits = copy_shipped(tmp_path_factory.mktemp("digits"), "mnist")
    write_line(digits, "line", 1, 1, 0)
    flowers = copy_shipped(tmp_path_factory.mktemp("flowers"), "iris_model")
    write_line(flowers, "line", 1, 1, 0)
    write_line(flowers, "line", 2, 1, 100)
    (flowers / "line" / "serving.toml").write_text('version_policy = "all"\n[labels]\ncanary = 2\n')
    loading = ThreadingHTTPServer(("127.0.0.1", 0), Loading)
    threading.Thread(target=loading.serve_forever, daemon=True).start()
    workers = {
        name: start("worker", "serve", "--listen", "127.0.0.1:0", "--models", models)
        for name, models in [("digits", digits), ("flowers", flowers)]
    }
    addresses = [*(worker.address for worker in workers.values()), f"127.0.0.1:{loading.server_address[1]}"]
    flags = [flag for address in addresses for flag in ("--worker", address)]
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *flags)

    def everything_is_known():
        known = [ask(balancer, "line/versions/2").ok, classify(balancer).ok, predict(balancer).ok]
        return all(known) and ask(balancer, "giant").status_code == 503

    eventually(everything_is_known, 30, "a balancer that has heard of every model")
    yield balancer, {name: worker.address for name, worker in workers.items()}
    loading.shutdown()


def ask(balancer, model, value=1.0):
    body = json.dumps({"instances": [value]})
    return requests.post(f"{balancer.url}/v1/models/{model}:predict", data=body, timeout=30)


def predict(balancer):
    body = json.dumps({"instances": [FLOWER]})
    return requests.post(f"{balancer.url}/v1/models/iris_model:predict", data=body, timeout=30)


def classify(balancer, path="/predict"):
    return requests.post(f"{balancer.url}{path}", data=encode(digit(7)), timeout=30)


def test_two_workers_with_different_models_are_one_service(fleet):
    balancer, _ = fleet
    digits, flowers = set(), set()
    for _ in range(20):
        for path in ["/predict", "/predict?model=mnist", "/mnist"]:
            answer = classify(balancer, path)
            assert answer.status_code == 200, answer.text
            digits.add(answer.headers[ENDPOINT])
        answer = predict(balancer)
        assert answer.json()["predictions"][0]["predicted_species"] == ["versicolor"]
        flowers.add(answer.headers[ENDPOINT])
    assert len(digits) == len(flowers) == 1 and digits != flowers


def test_the_index_of_the_balancer_has_every_model(fleet):
    balancer, _ = fleet
    index = requests.post(f"{balancer.url}/v2/repository/index", timeout=30).json()
    states = {(entry["name"], entry["version"]): entry["state"] for entry in index}
    assert states == {
        ("giant", "1"): "LOADING",
        ("iris_model", "1"): "READY",
        ("line", "1"): "READY",
        ("line", "2"): "READY",
        ("mnist", "1"): "READY",
    }
    ready = requests.post(f"{balancer.url}/v2/repository/index", json={"ready": True}, timeout=30).json()
    assert len(ready) == 4 and all(entry["state"] == "READY" for entry in ready)


def test_a_version_and_a_label_are_asked_where_they_are_served(fleet):
    balancer, _ = fleet
    for model, result in [("line/versions/2", 101.0), ("line/labels/canary", 101.0), ("line/versions/1", 1.0)]:
        answers = [ask(balancer, model) for _ in range(12)]
        assert [answer.json() for answer in answers] == [{"predictions": [result]}] * 12, model
        endpoints = {answer.headers[ENDPOINT] for answer in answers}
        assert len(endpoints) == (2 if model == "line/versions/1" else 1), (model, endpoints)


def test_what_nobody_serves_is_404_and_what_only_loads_is_503(fleet):
    balancer, _ = fleet
    for path, status in [("oracle", 404), ("line/versions/9", 404), ("giant", 503), ("giant/versions/1", 503)]:
        answer = ask(balancer, path)
        assert answer.status_code == status, answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
    for path, status in [("/predict?model=oracle", 404), ("/predict?model=giant", 503)]:
        assert classify(balancer, path).status_code == status
    assert requests.get(f"{balancer.url}/v2/models/oracle", timeout=30).status_code == 404
    assert requests.get(f"{balancer.url}/v2/models/giant/ready", timeout=30).status_code == 503


class Asking(Threads):
    """Threads that request the newest version and record which one answered, and when."""

    def __init__(self, url, threads):
        self.failures, self.versions, self.first = [], Counter(), {}
        super().__init__(threads, self._ask, url)

    def _ask(self, url):
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
        with requests.Session() as session:
            while not self.ending.is_set():
                answer = session.post(f"{url}/v2/models/line/infer", json=body, timeout=30)
                if answer.status_code != 200:
                    self.failures.append((answer.status_code, answer.text))
                    continue
                version = int(answer.json()["model_version"])
                self.first.setdefault(version, time.time())
                self.versions[version] += 1
                if answer.json()["outputs"][0]["data"] != [1.0 + version]:
                    self.failures.append((version, answer.text))


def test_versions_change_under_load_and_no_request_fails(start, tmp_path_factory):
    models = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder in models:
        write_line(folder, "line", 1, 1, 1)
    flags = ["--listen", "127.0.0.1:0", "--poll", "100ms", "--models"]
    workers = [start("worker", "serve", *flags, folder) for folder in models]
    upstream = [flag for worker in workers for flag in ("--worker", worker.address)]
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *upstream)
    eventually(lambda: ask(balancer, "line").ok, 30, "a ready balancer")
    written = {}
    with Asking(balancer.url, threads=4) as asking:
        for version in range(2, 7):
            written[version] = time.time()
            for folder in models:
                write_line(folder, "line", version, 1, version)
                shutil.rmtree(folder / "line" / str(version - 2), ignore_errors=True)
            eventually(lambda v=version: asking.versions[v] > 20, 30, f"answers by version {version}")
    assert not asking.failures[:3]
    assert all(asking.first[version] > moment for version, moment in written.items())
