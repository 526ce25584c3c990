"""Inputs that libraries, or other parsers, would read differently than a worker has to, and the expected answers."""

import base64
import gzip
import io
import json
import math
import struct
import zlib

from PIL import Image

from fleet import ROOT
from pictures import digit, encode, png_bomb

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


def before(prefix, question):
    path, body, headers = question
    return path, prefix + body, headers


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


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_of_tables(size):
    """A grey photo of 8 by 8, behind `size` bytes of Huffman tables that its scan does not select."""
    table = bytes([0x10, 1]) + bytes(15) + b"\0"
    tables = segment(0xC4, table * 3600)
    frame = segment(0xC0, struct.pack(">BHHB3B", 8, 8, 8, 1, 1, 0x11, 0))
    scan = segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + b"\0\0"
    quantisation = segment(0xDB, b"\0" + b"\1" * 64)
    huffman = segment(0xC4, b"\0\1" + bytes(15) + b"\0" + table)
    return b"\xff\xd8" + quantisation + frame + tables * (size // len(tables)) + huffman + scan + b"\xff\xd9"


def without_end(side):
    """A digit as a JPEG whose last marker is missing."""
    return encode(digit(7, size=side), "JPEG")[:-2]


def turned(picture_format, change=lambda content: content):
    """A seven that a camera has taken on its side, with the orientation recorded."""
    buffer = io.BytesIO()
    lying = digit(7).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    lying.save(buffer, picture_format, exif=b"Exif\0\0" + TURN_90)
    return change(buffer.getvalue())


def said_last(png):
    """Moves the orientation of a PNG behind its pixels."""
    at = png.index(b"eXIf") - 4
    chunk = png[at : at + 12 + int.from_bytes(png[at : at + 4], "big")]
    rest = png.replace(chunk, b"")
    return rest[:-12] + chunk + rest[-12:]


def said_plainly(webp):
    """Strips the prefix that JPEG has from the orientation of a WebP."""
    at = webp.index(b"EXIF")
    size = int.from_bytes(webp[at + 4 : at + 8], "little")
    content = webp[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
    chunk = b"EXIF" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    body = webp[8:at] + chunk + webp[at + 8 + size + size % 2 :]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def context_for_examples(members, examples):
    """Members to look a column up in, per example; the last example is not an object, so that nothing is computed."""
    columns = ",".join(f'"{name}":1' for name in ("sepal_length", "sepal_width", "petal_length", "petal_width"))
    parts = ['{"context":{', '"":0,' * members, columns, '},"examples":[', "{}," * examples, "7]}"]
    return "/v1/models/iris_model:classify", "".join(parts).encode(), {}


BLANK = encode(Image.new("L", (280, 280), 255))
TWICE = [{"name": "probabilities"}] * 2
BEST = [{"name": "probabilities", "parameters": {"classification": 3}}]

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
    "lists and numbers in one list": (400, "mixed", infer({"inputs": [tensor(data=[*[0.0] * 783, [0.0]])]})),
    "a number that no model holds": (400, "", ("/v1/models/mnist:predict", b'{"instances":[[1e39]]}', {})),
    "lists without end": (400, "parameter", (INFER, b'{"parameters":{"x":' + b"[" * 200_000, {})),
    "the best classes": (200, "", infer({"inputs": [tensor()], "outputs": BEST})),
    "a model that is not there": (404, "mnist", ("/v2/models/nothing/infer", b"{}", {})),
    "a wrong word behind a model that is not there": (400, "", ("/v1/models/nothing:tell", b"{}", {})),
    "a byte order mark": (200, "", before(b"\xef\xbb\xbf", rows_of(base64.b64encode(SEVEN).decode()))),
    "a packed bomb": (413, "", ("/predict", gzip.compress(bytes(50 << 20), 1), {"content-encoding": "gzip"})),
    "400 megapixels in a megabyte": (413, "", picture(png_bomb())),
    "tables without end": (422, "no digit found", picture(jpeg_of_tables(2 << 20))),
    "a small photo without an end": (200, "", picture(without_end(200))),
    "a large photo without an end": (200, "", picture(without_end(1200))),
    "half a PNG": (422, "", picture(SEVEN[: len(SEVEN) // 2])),
    "a context for 60,000 examples": (400, "JSON object", context_for_examples(200_000, 60_000)),
    "AVIF": (415, "AVIF", picture(other("AVIF"))),
    "no digit": (422, "no digit found", ("/submit", BLANK, {"content-type": "image/png"})),
}

TURNED = {
    "JPEG": turned("JPEG"),
    "PNG": turned("PNG"),
    "PNG, behind its pixels": turned("PNG", said_last),
    "WebP": turned("WEBP"),
    "WebP, without a prefix": turned("WEBP", said_plainly),
}
