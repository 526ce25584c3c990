"""What the original experiment's client does, and what a dying worker must not do."""

import os
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from math import sqrt

import psutil
import requests

from fleet import Threads, alive, eventually
from pictures import digit, encode

ENDPOINT = "x-imagefleet-endpoint"
SEVEN = encode(digit(7))


def submit(url, image=SEVEN, **options):
    return requests.post(f"{url}/submit", files={"image": image}, timeout=30, **options)


def spread(url):
    """500 posts from 50 threads: the answers, and how many each worker gave."""
    fields = {"number_backend_servers": 4}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: submit(url, data=fields), range(500)))
    return answers, Counter(answer.headers[ENDPOINT] for answer in answers)


def test_500_posts_of_50_threads_are_answered_and_spread_evenly_over_4_workers(balancer):
    sigma = sqrt(500 * 0.25 * 0.75)
    for trial in range(2):
        answers, counts = spread(balancer.url)
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.text for answer in answers} == {'"7"\n'}
        assert len(counts) == 4, counts
        worst = max(abs(count - 125) for count in counts.values())
        print(f"per worker {sorted(counts.values())}, worst deviation {worst / sigma:.2f} sigma")
        # A fair die exceeds 3 sigma four times in five hundred; twice in a row is no accident.
        if worst <= 3 * sigma:
            return
    raise AssertionError(f"further than 3 sigma from uniform twice: {counts}")


def test_number_backend_servers_keeps_to_the_first_endpoints(balancer):
    first = {submit(balancer.url, data={"number_backend_servers": 1}).headers[ENDPOINT] for _ in range(20)}
    two = {submit(balancer.url, data={"number_backend_servers": 2}).headers[ENDPOINT] for _ in range(40)}
    assert len(first) == 1
    assert len(two) == 2 and first < two


def test_the_answer_has_the_shape_that_the_client_asks_for(balancer):
    bare = submit(balancer.url)
    assert (bare.text, bare.headers["content-type"].split(";")[0]) == ('"7"\n', "application/json")
    full = submit(balancer.url, headers={"accept": "application/json"}).json()
    assert full["label"] == "7" and full["model"] == "mnist" and len(full["top_k"]) == 5
    assert full["endpoint"]
    assert set(full["timings_ms"]) >= {"decode", "preprocess", "queue", "compute", "total"}
    page = submit(balancer.url, headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html") and ">7<" in page.text


class Traffic(Threads):
    """Threads that post without a pause and record every failure with the time its request began."""

    def __init__(self, url, threads):
        self.failures, self.answers, self.endpoints = [], 0, Counter()
        super().__init__(threads, self._post, url)

    def _post(self, url):
        with requests.Session() as session:
            while not self.ending.is_set():
                began = time.monotonic()
                try:
                    answer = session.post(f"{url}/submit", files={"image": SEVEN}, timeout=30)
                    self.answers += 1
                    if answer.status_code == 200:
                        self.endpoints[answer.headers[ENDPOINT]] += 1
                    else:
                        self.failures.append((began, answer.status_code, answer.text))
                except requests.RequestException as error:
                    self.failures.append((began, 0, str(error)))


def test_a_killed_worker_is_back_within_5_seconds_and_other_requests_do_not_fail(start_fleet):
    balancer = start_fleet(4)
    with Traffic(balancer.url, threads=4) as traffic:
        eventually(lambda: len(traffic.endpoints) == 4, 10, "all four workers answer")
        before = {worker.pid for worker in balancer.workers()}
        killed = time.monotonic()
        os.kill(min(before), signal.SIGKILL)

        def everyone_answers():
            alive = {worker.pid for worker in balancer.workers()}
            return len(alive) == 4 and min(before) not in alive

        eventually(everyone_answers, 5, "a new process in place of the killed one")
        traffic.endpoints.clear()
        eventually(
            lambda: len(traffic.endpoints) == 4, killed + 5 - time.monotonic(), "the new worker answers"
        )
        print(
            f"back after {time.monotonic() - killed:.2f} s, {traffic.answers} answers, failures: {traffic.failures}"
        )
    print(f"{len(traffic.failures)} failures: {traffic.failures[:4]}")
    late = [failure for failure in traffic.failures if failure[0] > killed]
    assert not late[:4], "requests that began after the kill failed"
    assert len(traffic.failures) <= 4, "more failures than requests in flight"


def test_a_process_that_is_gone_while_it_is_asked_is_not_alive():
    ended = subprocess.Popen(["sleep", "60"])
    process = psutil.Process(ended.pid)
    assert alive(process)
    # What `is_running` would have returned a moment earlier.
    process.is_running = lambda: True
    ended.kill()
    eventually(lambda: not alive(process), 10, "a zombie is not alive")
    ended.wait()
    assert not alive(process)


def test_workers_end_with_their_balancer(start_fleet):
    balancer = start_fleet(2)
    workers = eventually(lambda: len(balancer.workers()) == 2 and balancer.workers(), 10, "two workers")
    balancer.process.kill()
    eventually(lambda: not any(map(alive, workers)), 10, "no orphan")


def test_sigterm_drains_and_ends_with_status_0(start_fleet):
    balancer = start_fleet(1)
    assert submit(balancer.url).status_code == 200
    assert balancer.stop() == 0
