"""Whatever comes in, the answer is the documented status in JSON and memory stays small."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from pictures import digit, encode, png_bomb, truncated_jpeg

FOUR = encode(digit(4))
TEXT = b"To whom it may concern: this is a letter, whatever its name says.\n" * 40


def image(content, name="picture.jpg", **fields):
    return {"files": {"image": (name, content)}, "data": fields}


CASES = {
    "empty body": (400, "/submit", {"data": b""}),
    "no image field": (400, "/submit", {"files": {"portrait": ("picture.png", FOUR)}}),
    "empty image field": (400, "/submit", image(b"")),
    "text file named .jpg": (415, "/submit", image(TEXT)),
    "raw text as an image": (415, "/predict", {"data": TEXT, "headers": {"content-type": "image/jpeg"}}),
    "truncated jpeg": (422, "/submit", image(truncated_jpeg())),
    "20,000 x 20,000 png": (413, "/submit", image(png_bomb(), "bomb.png")),
    "50 MB body": (413, "/submit", image(os.urandom(50_000_000))),
    "unknown model": (404, "/submit", image(FOUR, model="oracle")),
    "unknown model in the query": (404, "/predict?model=oracle", {"data": FOUR}),
    "top_k of nothing": (400, "/predict?top_k=0", {"data": FOUR}),
    "top_k not a number": (400, "/predict?top_k=many", {"data": FOUR}),
    "no servers": (400, "/submit", image(FOUR, number_backend_servers=0)),
    "more servers than there are": (400, "/submit", image(FOUR, number_backend_servers=5)),
    "servers not a number": (400, "/submit", image(FOUR, number_backend_servers="all")),
    "broken multipart": (
        400,
        "/submit",
        {"data": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ),
    "multipart without boundary": (
        400,
        "/submit",
        {"data": b"--x--", "headers": {"content-type": "multipart/form-data"}},
    ),
}


def check(answer, status):
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert list(body) == ["error"] and body["error"], body


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_json(balancer, name):
    status, path, request = CASES[name]
    check(requests.post(balancer.url + path, timeout=60, **request), status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/submit", 405), ("DELETE", "/", 405), ("PUT", "/predict", 405), ("GET", "/nothing/here", 404)],
)
def test_a_wrong_method_or_path_is_refused_in_json(balancer, method, path, status):
    answer = requests.request(method, balancer.url + path, timeout=10)
    check(answer, status)
    assert status != 405 or answer.headers["allow"]


def test_browsers_get_the_error_as_a_page(balancer):
    answer = requests.post(
        f"{balancer.url}/submit", headers={"accept": "text/html"}, timeout=10, **image(TEXT)
    )
    assert answer.status_code == 415
    assert answer.headers["content-type"].startswith("text/html") and "415" in answer.text


def test_script_in_a_request_is_never_script_in_the_page(balancer):
    path = "/<script>alert(1)</script>"
    answer = requests.get(balancer.url + path, headers={"accept": "text/html"}, timeout=10)
    assert answer.status_code == 404 and "<script>alert" not in answer.text


def test_health_and_the_greeting_answer(balancer):
    assert requests.get(f"{balancer.url}/v2/health/ready", timeout=10).status_code == 200
    assert requests.get(f"{balancer.url}/v2/health/live", timeout=10).status_code == 200
    greeting = requests.get(f"{balancer.url}/predict", timeout=10)
    assert json.loads(greeting.text) == "Please, submit an image with POST method"
    digits = requests.post(f"{balancer.url}/mnist", data=encode(digit(4, size=28)), timeout=10)
    assert digits.json() == {"message": "Image received. Size=28x28. label=4"}


def test_memory_stayed_below_300_mb_through_all_of_it(balancer):
    """Five bombs and five big bodies at the same time, on top of all earlier tests; the kernel keeps the peak."""
    bodies = [image(png_bomb(), "bomb.png"), image(bytes(50_000_000))] * 5
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: requests.post(f"{balancer.url}/submit", timeout=60, **body), bodies))
    assert all(400 <= answer.status_code < 500 for answer in answers), answers
    own, worker = balancer.peak_memory()
    print(f"peak resident memory: balancer {own:.0f} MB, worker {worker:.0f} MB")
    assert own < 300 and worker < 300
    assert requests.post(f"{balancer.url}/submit", timeout=10, **image(FOUR)).text == '"4"\n'
