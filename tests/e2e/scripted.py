"""A worker that answers as a test says, so that rare answers need no model that gives them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INDEX = [
    {"name": "mobilenet_v2", "version": "1", "state": "READY", "reason": "", "takes_images": True},
    {"name": "mnist", "version": "1", "state": "READY", "reason": "", "takes_images": True},
    {"name": "iris_model", "version": "1", "state": "READY", "reason": ""},
]


def prediction(label, confidence=0.97, **more):
    """The whole answer of a worker to one picture."""
    guesses = [{"label": label, "index": 0, "confidence": confidence}]
    guesses += [{"label": f"other {n}", "index": n, "confidence": (1 - confidence) / 4} for n in range(1, 5)]
    times = {"decode": 0.5, "preprocess": 0.25, "queue": 0.0, "compute": 1.0, "total": 2.0}
    answer = {**guesses[0], "top_k": guesses, "model": "mobilenet_v2", "version": "1", "endpoint": "worker1", "timings_ms": times}
    return 200, answer | more


class ScriptedWorker(ThreadingHTTPServer):
    """`answer` is its response, a status and JSON; `bodies` has the requests, `most` their peak concurrency."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.answer = prediction("tiger cat")
        self.bodies, self.most, self.now = [], 0, 0
        # Pictures wait here while it is closed.
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A balancer may hang up at any moment."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Logs nothing."""

    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(200, {"ready": True, "live": True})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/v2/repository/index"):
            return self.say(200, INDEX)
        worker = self.server
        with worker.lock:
            worker.bodies.append(body)
            worker.now += 1
            worker.most = max(worker.most, worker.now)
        worker.gate.wait(20)
        with worker.lock:
            worker.now -= 1
        return self.say(*worker.answer)
