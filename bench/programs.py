"""Starts and stops the programs of a measurement, and parses the output of the client."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until_it_answers(url, program):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if program.poll() is not None:
            sys.exit(f"{program.args[0]} ended with {program.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{url} does not answer")


class Programs:
    """Programs that log into `folder`, and are stopped at the end of the `with` block."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def __enter__(self):
        return self

    def start(self, *words, url, **environment):
        log = open(self.folder / f"{Path(words[0]).name}-{len(self.running)}.log", "w")
        program = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | environment)
        self.running.append(program)
        until_it_answers(url, program)

    def __exit__(self, *_):
        for program in reversed(self.running):
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def client(args, *words):
    """Runs a client command; returns its parsed JSON output and the processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([args.bin / "client", "--log", "error", *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not done.stdout.startswith(("{", "[")):
        sys.exit(f"client {' '.join(map(str, words))}: {done.stderr}")
    return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
