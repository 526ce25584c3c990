"""Requests at a rate that is independent of the answers, while something is changed."""

import contextlib
import json
import signal
import subprocess
import time

from conftest import TARGET


class Seen:
    """Outcomes of the requests, available after the block."""

    def __init__(self):
        self.summary = {}

    def failed(self):
        outcomes = self.summary["outcomes"]
        return sum(outcomes.values()) - outcomes.get("200", 0)

    def add_to(self, result, what):
        """A row of figures for bench/results."""
        latency = self.summary["latency_ms"]
        result.add(what, "requests", "", [self.summary["requests"]])
        result.add(what, "failed", "", [self.failed()])
        result.add(what, "median", "ms", [latency["p50"]])
        result.add(what, "99th percentile", "ms", [latency["p99"]])


@contextlib.contextmanager
def load(url, rate, folder, seconds=10):
    """Sends iris requests while the block lasts, and for at least `seconds`; none may fail.

    The load continues for two seconds after the block, so that its consequences are seen too.
    """
    command = [TARGET / "client", "load", "--target", url, "--workload", "iris", "--rate", rate, "--json"]
    command += ["--warm-up", "0s", "--duration", "900s", "--out", folder, "--force"]
    seen = Seen()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as client:
        started = time.monotonic()
        try:
            yield seen
            time.sleep(max(2, seconds - (time.monotonic() - started)))
            client.send_signal(signal.SIGINT)
            said, _ = client.communicate(timeout=60)
        finally:
            client.kill()
    seen.summary = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert seen.summary["outcomes"].get("200", 0) > rate, seen.summary["outcomes"]
    assert seen.failed() == 0, (seen.summary["outcomes"], seen.summary["errors"])
