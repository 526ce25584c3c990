"""Starts and watches the real programs: a balancer with spawned workers, or a worker alone.

Every wait is for a condition and bounded in time; every process is stopped with its fixture.
"""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench"))
from record import megabytes  # noqa: E402

# Data that is too large for the repository; tests that need it are skipped without it.
DATA = Path(os.environ.get("IMAGEFLEET_TEST_DATA") or ROOT / "no-test-data")


def eventually(condition, seconds, what):
    """Returns the first true value of `condition`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def alive(process):
    """Whether a process is still running; it may end, and disappear, during the check."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Program:
    """A child process that prints `listening on [http://]ADDRESS` on stdout once it accepts requests."""

    def __init__(self, command, log):
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.wait_for(r"listening on (?:http://)?(\S+)")
        self.url = f"http://{self.address}"

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def wait_for(self, pattern):
        while True:
            line = self.lines.get(timeout=30)
            assert line is not None, f"ended before it listened: {self.log.read_text()[-2000:]}"
            if match := re.search(pattern, line):
                return match[1]

    def workers(self):
        """The spawned worker processes that are alive."""
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if alive(child)]

    def peak_memory(self):
        """Peak resident memory so far, in MB, of this process and of its largest worker."""
        return peak_memory(self.process.pid), max((peak_memory(w.pid) for w in self.workers()), default=0)

    def stop(self):
        self.process.terminate()
        self.process.stdin.close()
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def peak_memory(pid):
    """Peak resident memory of a process so far, in MB."""
    return _status(pid, "VmHWM")


def resident_memory(pid):
    """The resident memory of a process now, in MB."""
    return _status(pid, "VmRSS")


def _status(pid, field):
    status = Path(f"/proc/{pid}/status").read_text()
    return megabytes(int(re.search(rf"{field}:\s+(\d+) kB", status)[1]))


class Threads:
    """Runs the same work on several threads while a `with` block lasts; the work stops when `ending` is set."""

    def __init__(self, count, work, *arguments):
        self.ending = threading.Event()
        self._threads = [threading.Thread(target=work, args=arguments) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self._threads:
            thread.join()
