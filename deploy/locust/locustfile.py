"""The users of the service, for Locust: https://locust.io

    locust --locustfile deploy/locust/locustfile.py --host http://localhost:5000
    locust ... --headless --users 75 --spawn-rate 5 --run-time 60s PhotoUser
    locust ... --headless --users 20 --spawn-rate 20 --run-time 20s DigitUser FlowerUser PageUser

Distributed: the same with --master on one machine and --worker --master-host ADDRESS on others.
PHOTOS names a folder of JPEG or PNG files to post; without it, a picture is generated. An answer is correct if it
is a 200 with the expected content. A 429 with `Retry-After` counts as a failure too, but under a name of its
own, such as `/submit (turned away)`, so that its times are kept apart from those of the answers.
"""

import math
import os
import random
import struct
import zlib
from pathlib import Path

from locust import HttpUser, between, constant, tag, task

# Sepal and petal sizes of a flower of each of the three kinds of iris, and its kind.
FLOWERS = [
    ((5.1, 3.5, 1.4, 0.2), "setosa"),
    ((6.0, 2.7, 4.1, 1.0), "versicolor"),
    ((6.3, 3.3, 6.0, 2.5), "virginica"),
]
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def png(width, height, channels, pixel):
    """A PNG file of the pixels that `pixel(x, y)` returns, one byte per channel."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(value for x in range(width) for value in pixel(x, y)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def made_photo(width=320, height=240):
    """Soft colours with some grain; the file is about as large as that of a photo of the same size."""
    grain = random.Random(1)

    def pixel(x, y):
        noise = grain.randrange(24)
        red = 128 + 90 * math.sin(x / 37) + noise
        green = 128 + 90 * math.sin(y / 29) + noise
        blue = 128 + 90 * math.sin((x + y) / 53) + noise
        return tuple(max(0, min(255, int(value))) for value in (red, green, blue))

    return png(width, height, 3, pixel)


def seven():
    """The digit as in the MNIST set: light on dark, 28 pixels wide."""

    def is_ink(x, y):
        return (7 <= x <= 20 and 6 <= y <= 8) or (8 < y <= 23 and abs(x - (20 - (y - 8) * 0.5)) < 1.6)

    return png(28, 28, 1, lambda x, y: (255 if is_ink(x, y) else 0,))


def photos():
    """Name, content and media type of each picture."""
    if folder := os.environ.get("PHOTOS"):
        kinds = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
        files = [file for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in kinds]
        if not files:
            raise SystemExit(f"PHOTOS: no JPEG or PNG file in {folder}")
        return [(file.name, file.read_bytes(), kinds[file.suffix.lower()]) for file in files]
    return [("made.png", made_photo(), "image/png")]


PHOTOS = photos()
SEVEN = seven()
TURNED_AWAY = " (turned away)"


def judge(answer, wanted):
    """Counts the answer as failed unless it is a 200 with `wanted` in it."""
    seconds = answer.headers.get("retry-after", "")
    if answer.status_code == 429 and seconds.isdecimal():
        answer.request_meta["name"] += TURNED_AWAY
        answer.failure(f"429, come back in {seconds} s")
    elif answer.status_code != 200:
        answer.failure(f"{answer.status_code} {answer.text[:100]}")
    elif wanted not in answer.text:
        answer.failure(f"no {wanted!r} in {answer.text[:100]!r}")
    else:
        answer.success()


class PhotoUser(HttpUser):
    """Uploads a photo through the page's form, and looks at the answer before the next one."""

    wait_time = between(0.5, 1.5)

    @tag("photo")
    @task
    def submit(self):
        files = {"image": random.choice(PHOTOS)}
        headers = {"Accept": "application/json"}
        with self.client.post("/submit", files=files, headers=headers, catch_response=True) as answer:
            judge(answer, '"label"')


class DigitUser(HttpUser):
    """Posts an MNIST digit twice a second."""

    wait_time = constant(0.5)

    @tag("digit")
    @task
    def mnist(self):
        headers = {"Content-Type": "image/png"}
        with self.client.post("/mnist", data=SEVEN, headers=headers, catch_response=True) as answer:
            judge(answer, "label=7")


class FlowerUser(HttpUser):
    """Has an iris classified by its measurements."""

    wait_time = between(0.05, 0.15)

    @tag("flower")
    @task
    def predict(self):
        values, kind = random.choice(FLOWERS)
        body = {"instances": [dict(zip(COLUMNS, values, strict=True))]}
        with self.client.post("/v1/models/iris_model:predict", json=body, catch_response=True) as answer:
            judge(answer, f'"predicted_species": ["{kind}"]')


class PageUser(HttpUser):
    """Loads the page and its script."""

    wait_time = between(1, 3)

    @tag("page")
    @task
    def page(self):
        with self.client.get("/", headers={"Accept": "text/html"}, catch_response=True) as answer:
            judge(answer, "<form")
        self.client.get("/app.js")
