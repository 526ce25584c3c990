"""Uploads images with a deadline, and waits as long as the service asks when it is busy.

    python3 examples/python_requests.py FILE...
"""

import os
import random
import sys
import time

import requests

URL = os.environ.get("IMAGEFLEET", "http://localhost:5000")
SECONDS = 10
ATTEMPTS = 5
# The picture decides between the model for photos and the one for handwritten digits.
MODEL = "auto"


def label(session, path):
    """The whole answer for one image."""
    deadline = time.monotonic() + SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        left = deadline - time.monotonic()
        headers = {
            "Accept": "application/json",
            # The service does not start a request that it cannot finish in time.
            "X-Imagefleet-Timeout-Ms": str(max(1, int(left * 1000))),
        }
        with open(path, "rb") as file:
            answer = session.post(
                f"{URL}/submit", data={"model": MODEL}, files={"image": file}, headers=headers, timeout=max(0.1, left)
            )
        if answer.status_code not in (429, 503) or attempt == ATTEMPTS:
            break
        # Clients that all retry at the same moment cause the next overload, so the pause is randomised.
        pause = float(answer.headers.get("Retry-After", 1)) * random.uniform(1, 2)
        if time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
    if answer.status_code >= 400:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.json()['error']}")
    return answer.json()


def main():
    paths = sys.argv[1:] or ["docs/seven.png"]
    with requests.Session() as session:  # one connection for all of them
        for path in paths:
            answer = label(session, path)
            print(f"{path}: {answer['label']} ({answer['confidence']:.1%}), {answer['model']} on {answer['endpoint']}")


if __name__ == "__main__":
    main()
