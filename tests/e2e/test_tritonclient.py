"""Triton's own client against a worker: JSON equals binary, errors are its own exceptions, versions come and go."""

import asyncio

import numpy
import pytest
from pictures import digit, encode

http = pytest.importorskip("tritonclient.http", reason="SKIPPED: tritonclient is not installed")
aio = pytest.importorskip("tritonclient.http.aio", reason="SKIPPED: aiohttp is not installed")
utils = pytest.importorskip("tritonclient.utils")

PIXELS = numpy.random.default_rng(0).random((3, 28, 28), dtype=numpy.float32)


@pytest.fixture(scope="module")
def address(start):
    return start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models").address


@pytest.fixture
def client(address):
    client = http.InferenceServerClient(address)
    yield client
    client.close()


def images(values, datatype="FP32", name="image", binary=True):
    tensor = http.InferInput(name, list(values.shape), datatype)
    return [tensor.set_data_from_numpy(values, binary_data=binary)]


def probabilities(client, inputs, binary=True, **options):
    outputs = [http.InferRequestedOutput("probabilities", binary_data=binary)]
    return client.infer("mnist", inputs, outputs=outputs, **options).as_numpy("probabilities")


def test_json_and_binary_tensors_are_equal_bit_for_bit(client):
    reference = probabilities(client, images(PIXELS))
    assert reference.shape == (3, 10)
    for binary_in, binary_out in [(False, False), (True, False), (False, True)]:
        answer = probabilities(client, images(PIXELS, binary=binary_in), binary_out)
        assert (answer == reference).all()
    plain = client.infer("mnist", images(PIXELS), request_id="r1")
    assert plain.get_response()["id"] == "r1"
    assert (plain.as_numpy("probabilities") == reference).all()
    for algorithm in ("gzip", "deflate"):
        packed = probabilities(client, images(PIXELS), request_compression_algorithm=algorithm)
        assert (packed == reference).all()


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_are_asked_for_as_image_client_does(client, binary):
    outputs = [http.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)]
    told = client.infer("mnist", images(PIXELS), outputs=outputs).as_numpy("probabilities")
    reference = probabilities(client, images(PIXELS))
    assert told.shape == (3, 3)
    for texts, row in zip(told, reference):
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
        best = numpy.argsort(-row, kind="stable")[:3]
        assert texts == [f"{row[index]:.6f}:{index}:{index}" for index in best]


def test_an_image_file_is_a_tensor_of_bytes(client):
    file = numpy.array([encode(digit(7))], dtype=object)
    assert probabilities(client, images(file, "BYTES")).argmax() == 7


def test_server_and_model_describe_themselves(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mnist")
    metadata = client.get_model_metadata("mnist")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28]}]
    assert client.get_model_config("mnist")["max_batch_size"] > 0
    index = client.get_model_repository_index()
    assert any(entry["name"] == "mnist" and entry["state"] == "READY" for entry in index)
    before = client.get_inference_statistics("mnist")["model_stats"][0]["inference_count"]
    probabilities(client, images(PIXELS))
    assert client.get_inference_statistics("mnist")["model_stats"][0]["inference_count"] == before + 3


def test_errors_are_the_exceptions_of_the_client(client):
    wrong_shape = numpy.zeros((1, 5, 5), numpy.float32)
    for call in [
        lambda: client.infer("nothing", images(PIXELS)),
        lambda: probabilities(client, images(PIXELS, name="pixels")),
        lambda: probabilities(client, images(wrong_shape)),
        lambda: client.get_model_metadata("mnist", "77"),
        lambda: client.load_model("nothing"),
    ]:
        with pytest.raises(utils.InferenceServerException) as raised:
            call()
        assert raised.value.status() in ("400", "404") and raised.value.message()


def test_a_model_is_unloaded_and_loaded(client):
    client.unload_model("mnist")
    assert not client.is_model_ready("mnist")
    client.load_model("mnist")
    assert client.is_model_ready("mnist")


def test_the_asynchronous_client_agrees(client, address):
    reference = probabilities(client, images(PIXELS))

    async def ask():
        async with aio.InferenceServerClient(address) as asynchronous:
            calls = [asynchronous.infer("mnist", images(PIXELS)) for _ in range(20)]
            return [answer.as_numpy("probabilities") for answer in await asyncio.gather(*calls)]

    # Requests that share a batch are summed in another order.
    for answer in asyncio.run(ask()):
        assert numpy.allclose(answer, reference, atol=1e-5)
