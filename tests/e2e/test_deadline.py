"""A deadline travels with the request: past it, no more work is done for the client."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from fleet import eventually
from models import copy_shipped
from pictures import digit, encode, png_bomb

TIMEOUT = "x-imagefleet-timeout-ms"


@pytest.fixture(scope="module")
def pair_fleet(start, tmp_path_factory):
    """A balancer over one worker whose digit model waits a long time for a second picture."""
    models = copy_shipped(tmp_path_factory.mktemp("models"), "mnist")
    manifest = models / "mnist" / "1" / "model.toml"
    text = manifest.read_text().replace("max_batch_size = 64", "max_batch_size = 2")
    manifest.write_text(text.replace('max_queue_delay = "0s"', 'max_queue_delay = "10s"'))
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", models)
    balancer = start(
        "balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address
    )
    eventually(lambda: requests.get(f"{balancer.url}/v2/health/ready", timeout=30).ok, 30, "a ready balancer")
    return balancer, worker


def ask(server, headers=None):
    return requests.post(f"{server.url}/predict", data=encode(digit(7)), headers=headers, timeout=60)


def rows_computed(worker):
    lines = requests.get(f"{worker.url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("worker_batch_size_sum"))


def test_a_request_past_its_deadline_is_answered_and_never_computed(pair_fleet):
    balancer, worker = pair_fleet
    for server in [balancer, worker]:
        begun = time.monotonic()
        late = ask(server, {TIMEOUT: "300"})
        assert late.status_code == 504 and "error" in late.json(), late.text
        assert time.monotonic() - begun < 9, "the deadline of the request counts, not the batch's delay"
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, [balancer, balancer]))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "7")] * 2
    assert rows_computed(worker) == 2


def test_a_worker_that_leaves_waits_for_nothing_beyond_its_drain_timeout(start):
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        worker = start(
            "worker", "serve", "--listen", "127.0.0.1:0", "--models", "models",
            "--drain-timeout", "200ms", "--fetch-allow", address,
        )
        form = {"IMAGE_URL": f"http://{address}/"}
        asked = pool.submit(lambda: requests.post(f"{worker.url}/home", data=form, timeout=30))
        connection, _ = silent.accept()
        with connection:
            begun = time.monotonic()
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(20) == 0
            assert time.monotonic() - begun < 3, "it waited for the address that does not answer"
        assert asked.exception(30) is not None


def test_a_worker_that_leaves_waits_for_no_picture_that_it_decodes(start):
    worker = start(
        "worker", "serve", "--listen", "127.0.0.1:0", "--models", "models",
        "--drain-timeout", "200ms", "--max-pixels", "400000000",
    )
    picture = png_bomb()
    process = psutil.Process(worker.process.pid)
    computed = lambda: process.cpu_times().user  # noqa: E731
    before = computed()
    with ThreadPoolExecutor(1) as pool:
        # Seconds of work that nothing but its own deadline stops.
        asked = pool.submit(lambda: requests.post(f"{worker.url}/predict", data=picture, timeout=60))
        eventually(lambda: computed() > before + 0.3, 30, "it decodes")
        worker.process.send_signal(signal.SIGTERM)
        signalled = computed()
        eventually(lambda: worker.process.poll() is not None or computed() > signalled + 2, 60, "it ends")
        assert worker.process.poll() == 0, "it went on with the picture"
        assert asked.exception(30) is not None
