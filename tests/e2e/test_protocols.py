"""The public protocols as their own documentation describes them, against a worker and through the balancer."""

import asyncio
import json
import shlex
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy
import pytest
import requests
from fleet import ROOT, eventually
from models import copy_shipped, write_line
from pictures import digit, encode

http = pytest.importorskip("tritonclient.http", reason="SKIPPED: tritonclient is not installed")
aio = pytest.importorskip("tritonclient.http.aio", reason="SKIPPED: aiohttp is not installed")
utils = pytest.importorskip("tritonclient.utils")

FLOWER = {"sepal_length": 5.0, "sepal_width": 2.0, "petal_length": 3.5, "petal_width": 1.0}


@pytest.fixture(scope="module")
def worker(start, tmp_path_factory):
    """A worker with the models of TF Serving's examples beside the shipped ones."""
    models = copy_shipped(tmp_path_factory.mktemp("models"), "mnist", "iris_model")
    write_line(models, "half_plus_two", 123, 0.5, 2)
    write_line(models, "half_plus_three", 123, 0.5, 3)
    return start("worker", "serve", "--listen", "127.0.0.1:0", "--models", models)


@pytest.fixture(scope="module")
def before_it(start, worker):
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address)
    eventually(lambda: requests.get(f"{balancer.url}/v2/health/ready", timeout=5).ok, 30, "a ready balancer")
    return balancer


@pytest.fixture(params=["worker", "balancer"])
def address(request, worker, before_it):
    return {"worker": worker, "balancer": before_it}[request.param].address


def curl(line, address):
    """Runs a documented command line with the address filled in; returns the status and the body."""
    words = shlex.split(line.replace("localhost:8501", address))
    done = subprocess.run(
        [*words, "-s", "-w", "\n%{http_code}"], capture_output=True, text=True, timeout=60, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_the_curl_lines_of_tf_servings_documentation(address):
    predict = """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict"""
    assert curl(predict, address) == (200, '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}')
    status, body = curl("curl http://localhost:8501/v1/models/half_plus_three", address)
    assert status == 200 and json.loads(body) == {
        "model_version_status": [
            {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    regress = (
        """curl -d '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}' """
        "-X POST http://localhost:8501/v1/models/half_plus_three:regress"
    )
    status, body = curl(regress, address)
    assert status == 200 and json.loads(body) == {"results": [3.5, 4.0]}
    unknown = """curl -d '{"instances": [1.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict"""
    status, body = curl(unknown, address)
    assert status == 404 and json.loads(body) == {"error": "Servable not found for request: Latest(half)"}
    columns = """curl -d '{"inputs": {"x": [1, 2]}}' http://localhost:8501/v1/models/half_plus_two/versions/123:predict"""
    status, body = curl(columns, address)
    assert status == 200 and json.loads(body) == {"outputs": [2.5, 3.0]}


@pytest.mark.parametrize(
    "method, path, status, error",
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("PUT", "/v1/models/mnist", 400, "Malformed request: PUT /v1/models/mnist"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/half", 404, "Servable not found for request: Latest(half)"),
        ("GET", "/v1/models/half/versions/50/metadata", 404, "Servable not found for request: Specific(half, 50)"),
        ("GET", "/v1/models/mnist/versions/50", 404, "Servable not found for request: Specific(mnist, 50)"),
        ("GET", "/v1/models/mnist/labels/best", 400, "Unrecognized servable version label: best"),
        ("GET", "/v1/models/half/labels/best", 400, "Unrecognized servable version label: best"),
        ("POST", "/V1/MODELS/mnist:PREDICT", 400, "JSON Parse error: The document is empty"),
    ],
)
def test_the_errors_of_tf_serving(address, method, path, status, error):
    answer = requests.request(method, f"http://{address}{path}", timeout=30)
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == "application/json"


def test_iris_answers_as_the_exported_model_of_bigquery_ml(address):
    url = f"http://{address}/v1/models/iris_model:predict"
    answer = requests.post(url, data=json.dumps({"instances": [FLOWER]}), timeout=30)
    (prediction,) = answer.json()["predictions"]
    assert set(prediction) == {"species_probs", "species_values", "predicted_species"}
    assert prediction["species_values"] == ["setosa", "versicolor", "virginica"]
    assert prediction["predicted_species"] == ["versicolor"]
    assert abs(sum(prediction["species_probs"]) - 1) < 1e-5
    examples = {"examples": [FLOWER], "context": {}}
    answer = requests.post(url.replace(":predict", ":classify"), data=json.dumps(examples), timeout=30)
    scores = dict(answer.json()["results"][0])
    assert max(scores, key=scores.get) == "versicolor"


PIXELS = numpy.random.default_rng(0).random((3, 28, 28), dtype=numpy.float32)


def images(values, datatype="FP32", binary=True):
    return [http.InferInput("image", list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)]


def test_tritonclient_asks_in_json_and_in_binary_and_gets_the_same_bits(address):
    with http.InferenceServerClient(address) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mnist", "1")
        assert client.get_model_metadata("mnist")["inputs"][0]["shape"] == [-1, 28, 28]
        reference = client.infer("mnist", images(PIXELS)).as_numpy("probabilities")
        for binary_in, binary_out in [(False, False), (False, True), (True, False)]:
            outputs = [http.InferRequestedOutput("probabilities", binary_data=binary_out)]
            answer = client.infer("mnist", images(PIXELS, binary=binary_in), outputs=outputs, request_id="r1")
            assert answer.get_response()["id"] == "r1"
            assert (answer.as_numpy("probabilities") == reference).all()
        file = numpy.array([encode(digit(7))], dtype=object)
        assert client.infer("mnist", images(file, "BYTES")).as_numpy("probabilities").argmax() == 7
        assert client.get_inference_statistics("mnist")["model_stats"][0]["inference_count"] > 0


def test_tritonclient_sees_errors_as_its_own_exceptions(address):
    with http.InferenceServerClient(address) as client:
        for status, what, call in [
            ("404", "nothing", lambda: client.infer("nothing", images(PIXELS))),
            ("404", "version", lambda: client.infer("mnist", images(PIXELS), model_version="9")),
            ("400", "shape", lambda: client.infer("mnist", images(PIXELS[:, :5, :5]))),
            ("400", "expects FP32", lambda: client.infer("mnist", images(PIXELS.astype(numpy.int64), "INT64"))),
            ("404", "nothing", lambda: client.load_model("nothing")),
        ]:
            with pytest.raises(utils.InferenceServerException, match=what) as raised:
                call()
            assert raised.value.status() == status


def test_the_asynchronous_tritonclient_agrees(address):
    async def ask():
        async with aio.InferenceServerClient(address) as client:
            answers = await asyncio.gather(*(client.infer("mnist", images(PIXELS)) for _ in range(20)))
            return [answer.as_numpy("probabilities") for answer in answers]

    first, *others = asyncio.run(ask())
    # Requests that share a batch are summed in another order.
    assert all(numpy.allclose(first, other, atol=1e-5) for other in others)


def test_a_model_is_unloaded_and_loaded_and_the_next_request_knows(address):
    with http.InferenceServerClient(address) as client:
        for _ in range(3):
            client.unload_model("half_plus_two")
            assert not client.is_model_ready("half_plus_two")
            client.load_model("half_plus_two")
            assert client.is_model_ready("half_plus_two")


def test_the_routes_of_the_older_projects(address):
    url, seven = f"http://{address}", encode(digit(7))
    answer = requests.post(f"{url}/mnist", data=seven, headers={"content-type": "image/png"}, timeout=30)
    assert answer.json() == {"message": "Image received. Size=200x200. label=7"}
    text = requests.get(url, headers={"accept": "text/plain"}, timeout=30)
    assert text.headers["content-type"].startswith("text/plain")
    assert "mnist" in text.text and "/predict" in text.text
    assert requests.get(f"{url}/predict", timeout=30).json() == "Please, submit an image with POST method"
    private = requests.post(f"{url}/home", data={"IMAGE_URL": f"{url}/x.png"}, timeout=30)
    assert private.status_code == 400 and "no public host" in private.json()["error"], private.text


def test_the_form_of_the_digit_project_gets_its_page(before_it):
    answer = requests.post(f"{before_it.url}/post", files={"input_photo": encode(digit(4))}, timeout=30)
    assert "The result of handwritten digit detection: [4]" in answer.text
    back = requests.get(f"{before_it.url}/post", allow_redirects=False, timeout=30)
    assert (back.status_code, back.headers["location"]) == (303, "/")


class Picture(BaseHTTPRequestHandler):
    """A web server with one picture, and a redirect to a private address."""

    def do_GET(self):
        moved = self.path == "/moved"
        self.send_response(302 if moved else 200)
        self.send_header("location", "http://169.254.169.254/latest/meta-data")
        self.end_headers()
        self.wfile.write(b"" if moved else encode(digit(7)))

    def log_message(self, *_):
        """Logs nothing."""


def test_the_address_of_a_picture_is_fetched_only_where_it_is_allowed(start):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Picture)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"127.0.0.1:{server.server_address[1]}"
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models", "--fetch-allow", source)
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address)
    eventually(lambda: requests.get(f"{balancer.url}/v2/health/ready", timeout=5).ok, 30, "a ready balancer")
    for url in [worker.url, balancer.url]:
        for route in ["/home", "/submit"]:
            given = {"IMAGE_URL": f"http://{source}/7.png"}
            assert requests.post(url + route, data=given, timeout=30).json() == "7"
            moved = requests.post(url + route, data={"IMAGE_URL": f"http://{source}/moved"}, timeout=30)
            assert moved.status_code == 400, moved.text
    server.shutdown()


def test_generated_requests_meet_no_server_error(worker, before_it):
    schemathesis = pytest.importorskip("schemathesis", reason="SKIPPED: schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_path(ROOT / "docs" / "open-inference.yaml")
    # Random names would never get past the first check.
    parameters = schema.raw_schema["components"]["parameters"]
    parameters["Model"]["schema"] = {"enum": ["mnist", "iris_model", "half_plus_two", "oracle"]}
    parameters["Version"]["schema"] = {"enum": ["1", "123", "stable", "99999999999999999999"]}
    count = 0
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=25, deadline=None, derandomize=True, database=None,
                  phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def ask(case):
            nonlocal count
            count += 1
            for url in [worker.url, before_it.url]:
                answer = case.call(base_url=url, timeout=30)
                assert answer.status_code < 500, (url, case.as_curl_command(), answer.text)
                case.validate_response(answer, checks=(schemathesis.checks.not_a_server_error,
                                       schemathesis.specs.openapi.checks.response_schema_conformance))

        ask()
    assert count > 100
