"""What a worker answers to bodies that its libraries, or other readers of them, would take otherwise."""

import base64
import io
import json
import math
import socket
import struct
import zlib
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from fleet import ROOT
from pictures import digit, encode

JPEG = (ROOT / "worker" / "tests" / "data" / "jpeg" / "420.jpg").read_bytes()
FRAME = JPEG.index(b"\xff\xc0")
SEVEN = encode(digit(7))
INFER = "/v2/models/mnist/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
TURN_90 = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def tensor(**other):
    return {"name": "image", "shape": [1, 28, 28], "datatype": "FP32", "data": [0.0] * 784} | other


def infer(request):
    return INFER, json.dumps(request).encode(), {}


def binary(name, model, shape, content):
    described = {"name": name, "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": len(content)}}
    text = json.dumps({"inputs": [described]}).encode()
    return f"/v2/models/{model}/infer", text + content, {JSON_LENGTH: str(len(text))}


def rows_of(text, **headers):
    body = json.dumps({"instances": [{"b64": text}]}).encode()
    return "/v1/models/mnist:predict", body, headers


def picture(content):
    return "/predict", content, {"content-type": "image/any"}


def tiff_of_tiles_in_planes():
    """One pixel in three planes, each of one tile of 16 by 16."""
    numbers = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 2), (277, 3), (284, 2), (322, 16), (323, 16)]
    at = 8 + 2 + 12 * (len(numbers) + 2) + 4
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in numbers]
    entries[2] = struct.pack("<HHII", 258, 3, 3, at)
    entries += [struct.pack("<HHII", 324, 4, 3, at + 8), struct.pack("<HHII", 325, 4, 3, at + 20)]
    places = [at + 32 + 256 * plane for plane in range(3)]
    lists = struct.pack("<4H", 8, 8, 8, 0) + struct.pack("<3I", *places) + struct.pack("<3I", 256, 256, 256)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + lists + bytes(768)


def other(picture_format):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 90, 10)).save(buffer, picture_format)
    return buffer.getvalue()


BLANK = encode(Image.new("L", (280, 280), 255))
TWICE = [{"name": "probabilities"}] * 2

CASES = {
    "an output asked for twice": (400, "twice", infer({"inputs": [tensor()], "outputs": TWICE})),
    "20,000 outputs": (400, "", infer({"inputs": [tensor()], "outputs": TWICE * 10_000})),
    "parameters that nest": (400, "parameter", infer({"inputs": [tensor()], "parameters": {"x": [[{}]]}})),
    "another shape of as many elements": (400, "shape", infer({"inputs": [tensor(shape=[1, 784])]})),
    "a list for a request": (400, "list", infer([])),
    "no numbers": (400, "finite", binary("image", "mnist", [1, 28, 28], struct.pack("<f", math.nan) * 784)),
    "numbers beyond all pictures": (400, "", binary("image", "mnist", [1, 28, 28], struct.pack("<f", 3e38) * 784)),
    "more rows than one request has": (413, "rows", binary("sepal_length", "iris_model", [70_000], bytes(280_000))),
    "a raw tensor": (200, "", (INFER, bytes(4 * 784), {JSON_LENGTH: "0"})),
    "base64 in lines": (200, "", rows_of(base64.encodebytes(SEVEN).decode())),
    "a number beyond all": (400, "", ("/v1/models/mnist:predict", b'{"instances":[1.8e308]}', {})),
    "files to load": (400, "config", ("/v2/repository/models/mnist/load", b'{"parameters":{"config":"{}"}}', {})),
    "tiles in planes": (422, "TIFF", picture(tiff_of_tiles_in_planes())),
    "two frame headers": (422, "two frame", picture(JPEG[:FRAME] + JPEG[FRAME : FRAME + 19] + JPEG[FRAME:])),
    "a hole in a small photo": (422, "damaged", picture(JPEG[:2330] + JPEG[2345:])),
    "40 megapixels in 34 bytes": (
        413,
        "memory",
        picture(bytes.fromhex("524946461a000000574542505650384c0e0000002f9bd82606071011fd0f4444ff03")),
    ),
    "AVIF": (415, "AVIF", picture(other("AVIF"))),
    "no digit": (422, "no digit found", ("/submit", BLANK, {"content-type": "image/png"})),
}


@pytest.fixture(scope="module")
def worker(start):
    return start("worker", "serve", "--listen", "127.0.0.1:0", "--models", str(ROOT / "models"))


def ask(worker, path, body, headers):
    return requests.post(worker.url + path, data=body, headers={"accept": "application/json"} | headers, timeout=60)


@pytest.mark.parametrize("name", CASES)
def test_an_input_has_one_answer(worker, name):
    status, words, question = CASES[name]
    answer = ask(worker, *question)
    assert answer.status_code == status, answer.text[:300]
    assert status == 200 or words in answer.json()["error"], answer.text[:300]


def test_packed_bodies_are_unpacked(worker):
    path, body, _ = rows_of(base64.b64encode(SEVEN).decode())
    plain = ask(worker, path, body, {})
    assert plain.status_code == 200
    packed = ask(worker, path, zlib.compress(body), {"content-encoding": "deflate"})
    assert packed.json() == plain.json()


def test_the_camera_is_turned_in_every_format(worker):
    upright, expected = digit(7), None
    for kind in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        upright.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(buffer, kind, exif=b"Exif\0\0" + TURN_90)
        answer = ask(worker, *picture(buffer.getvalue()))
        assert answer.status_code == 200, answer.text
        expected = expected or answer.json()["label"]
        assert answer.json()["label"] == expected == "7", kind


def test_a_request_names_its_host(worker):
    parts = urlsplit(worker.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        assert connection.recv(100).split()[1] == b"400"
