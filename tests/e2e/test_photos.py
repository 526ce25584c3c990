"""Photos of every size through the photo model: their labels, and the memory that they leave in use."""

import csv
import io
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from PIL import Image

from fleet import DATA, ROOT, resident_memory

sys.path.insert(0, str(ROOT / "bench"))
from record import Result  # noqa: E402

REQUESTS = int(os.environ.get("IMAGEFLEET_MEMORY_REQUESTS", "240"))
LARGEST_MB = 150
COMMAND = (
    f"IMAGEFLEET_RECORD=1 IMAGEFLEET_PROFILE=release IMAGEFLEET_MEMORY_REQUESTS={REQUESTS} "
    "pytest tests/e2e/test_photos.py -k memory"
)
PHOTOS = DATA / "photos"


def twelve_megapixels(name, **settings):
    small = Image.open(PHOTOS / name).convert("RGB")
    scale = (12e6 / (small.width * small.height)) ** 0.5
    file = io.BytesIO()
    large = small.resize((round(small.width * scale), round(small.height * scale)), Image.BICUBIC)
    large.save(file, quality=90, **settings)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo_worker(start, photo_models):
    flags = ["--listen", "127.0.0.1:0", "--threads", "2", "--deadline", "110s", "--models", photo_models]
    return start("worker", "serve", *flags)


@pytest.fixture(scope="module")
def table(photo_models):
    with (PHOTOS / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def classify(worker, body):
    answer = requests.post(f"{worker.url}/predict", data=body, timeout=120)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()


def test_photos_of_twelve_megapixels_get_the_label_of_the_small_photo(photo_worker, table):
    certain = [row for row in table if float(row["ref_margin"]) > 2][:3]
    for row, kind in itertools.product(certain, ({"format": "JPEG"}, {"format": "JPEG", "progressive": True})):
        assert classify(photo_worker, twelve_megapixels(row["file"], **kind)) == row["ref_label"], (row["file"], kind)


@pytest.mark.timeout(180 + REQUESTS // 4)
def test_memory_stays_below_150_mb_whatever_the_sizes(photo_worker, table):
    """240 requests by default; IMAGEFLEET_MEMORY_REQUESTS=10000 with a release build, and IMAGEFLEET_RECORD=1, for the figure."""
    name = table[0]["file"]
    large = [
        twelve_megapixels(name, format="JPEG"),
        twelve_megapixels(name, format="JPEG", progressive=True),
        twelve_megapixels(name, format="WEBP", method=0),
    ]
    usual = [(PHOTOS / row["file"]).read_bytes() for row in table]
    usual += [path.read_bytes() for path in sorted((PHOTOS / "rtt").glob("*.jp*g"))]
    # One in twenty is large.
    bodies = [large[i // 20 % len(large)] if i % 20 == 0 else usual[i % len(usual)] for i in range(REQUESTS)]
    with ThreadPoolExecutor(8) as clients:
        for _ in clients.map(lambda body: classify(photo_worker, body), bodies):
            pass
    resident = resident_memory(photo_worker.process.pid)
    print(f"\n{REQUESTS} requests: {resident:.0f} MB resident")
    if os.environ.get("IMAGEFLEET_RECORD") == "1":
        result = Result("photo-memory", COMMAND, threads=2)
        result.add(f"resident memory after {REQUESTS:,} photos", "imagefleet", "MB", [resident])
        result.content["note"] = "One photo in twenty has 12 megapixels."
        result.write()
    assert resident < LARGEST_MB


def test_the_picture_decides_between_photo_and_digit(photo_worker, table):
    """Every photo and digit available; the answer names the model that gave it."""
    pictures = [(PHOTOS / row["file"], "mobilenet_v2") for row in table if (PHOTOS / row["file"]).exists()]
    pictures += [(path, "mnist") for path in sorted((DATA / "digits").glob("d*.*"))]
    assert len(pictures) > 100

    def is_wrong(one):
        path, model = one
        answer = requests.post(
            f"{photo_worker.url}/predict?model=auto",
            data=path.read_bytes(),
            headers={"accept": "application/json", "content-type": "image/png"},
            timeout=60,
        )
        return answer.status_code != 200 or answer.json()["model"] != model

    with ThreadPoolExecutor(2) as pool:
        wrong = [one[0].name for one, is_it in zip(pictures, pool.map(is_wrong, pictures)) if is_it]
    assert len(wrong) <= len(pictures) // 100, wrong


def test_a_blank_sheet_is_told_to_have_no_digit_and_one_model_is_no_choice(start, photo_worker):
    blank = io.BytesIO()
    Image.new("L", (300, 300), 250).save(blank, "PNG")
    answer = requests.post(f"{photo_worker.url}/predict?model=auto", data=blank.getvalue(), timeout=60)
    assert answer.status_code == 422 and answer.json()["error"] == "no digit found"
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models")
    digit = (DATA / "photos" / "n02099601_golden_retriever.jpg").read_bytes()
    accept = {"accept": "application/json", "content-type": "image/jpeg"}
    only = requests.post(f"{worker.url}/predict?model=auto", data=digit, headers=accept, timeout=60)
    assert only.status_code == 422 or only.json()["model"] == "mnist"
