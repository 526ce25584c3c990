"""Users that send requests in sequence and count the outcomes."""

import threading
from collections import Counter

import requests
from fleet import Threads
from pictures import digit, encode

FLOWER = {"sepal_length": 5.0, "sepal_width": 2.0, "petal_length": 3.5, "petal_width": 1.0}
PAUSE = 0.02


class Users(Threads):
    """Some upload digits and some send iris measurements, while a `with` block lasts."""

    def __init__(self, url, count=6):
        super().__init__(count, self._use, url)
        self.answers = Counter()
        self.failures = []
        self._lock = threading.Lock()
        self._seven = encode(digit(7))
        self._numbers = iter(range(count))

    def _use(self, url):
        with self._lock:
            is_uploading = next(self._numbers) % 2
        session = requests.Session()
        while not self.ending.is_set():
            try:
                answer = self._upload(session, url) if is_uploading else self._ask(session, url)
                problem = None if answer.ok else f"{answer.status_code} {answer.text[:200]}"
                endpoint = answer.headers.get("x-imagefleet-endpoint")
            except requests.RequestException as error:
                problem, endpoint = repr(error), None
            with self._lock:
                self.answers[endpoint] += 1
                if problem:
                    self.failures.append(problem)
            self.ending.wait(PAUSE)

    def _upload(self, session, url):
        # The model is named: a worker that has just started may have another one ready before it.
        return session.post(f"{url}/submit?model=mnist", files={"image": self._seven}, timeout=30)

    def _ask(self, session, url):
        return session.post(f"{url}/v1/models/iris_model:predict", json={"instances": [FLOWER]}, timeout=30)

    def served_by(self, wanted):
        """Whether at least `wanted` endpoints have answered since the last call that returned true."""
        with self._lock:
            enough = len(set(self.answers) - {None}) >= wanted
            if enough:
                self.answers.clear()
            return enough
