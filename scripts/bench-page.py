"""How fast the pages are and what they cost the balancer, in Chromium on this machine.

    .venv/bin/python scripts/bench-page.py digit photo rule paint    what a visitor waits for
    .venv/bin/python scripts/bench-page.py events fleet              what open pages cost
    .venv/bin/python scripts/bench-page.py all                       about five minutes; nothing else should run

Needs release builds (cargo build --release --bins), Chromium, the packages of tests/e2e/requirements.txt and, for `photo`
and `rule`, IMAGEFLEET_TEST_DATA. Figures go to bench/results/page.*.json.
"""

import argparse
import contextlib
import http.server
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import requests
from PIL import Image
from selenium.webdriver import ActionChains

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]

from browsing import Browser  # noqa: E402
from fleet import DATA, Program, eventually  # noqa: E402
from record import Result, command_line  # noqa: E402

TIMES = 50
ROUNDS = 3
STREAMS = 100
RATE = 500
ENDPOINTS = 200
# Milliseconds from an event of the page to the label of a request sent after it: until the label is in the page, and
# until the frame that draws it.
WATCH = """
    const [event] = arguments;
    window.times = [];
    let start = 0;
    let isAnswered = false;
    document.addEventListener(event, () => { start = performance.now(); isAnswered = false; }, true);
    const { open } = XMLHttpRequest.prototype;
    XMLHttpRequest.prototype.open = function (...words) {
      const isAfter = start > 0;
      this.addEventListener("load", () => { isAnswered = isAfter; });
      return open.apply(this, words);
    };
    new MutationObserver(() => {
      if (!start || !isAnswered || !document.querySelector("#result .label")) return;
      const [from, there] = [start, performance.now()];
      start = 0;
      requestAnimationFrame(() => window.times.push([there - from, performance.now() - from]));
    }).observe(document.querySelector("#result"), { childList: true, subtree: true });
"""


class Fleet:
    """A balancer and its temporary folder, which last as long as the `with` block."""

    def __init__(self, args, *flags):
        self.folder = tempfile.TemporaryDirectory()
        log = Path(self.folder.name) / "balancer.log"
        self.program = Program([args.bin / "balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *flags], log)
        self.url = self.program.url
        self.admin = f"http://{self.program.wait_for('admin on (?:http://)?(.*)')}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.stop()
        self.folder.cleanup()

    def seconds(self):
        """The processor time of the balancer alone."""
        times = psutil.Process(self.program.process.pid).cpu_times()
        return times.user + times.system


def p95(values):
    return sorted(values)[int(len(values) * 0.95)]


def watched(browser, count, act):
    """Runs `act` `count` times; returns the times to the page and to the frame of each run."""
    for done in range(count):
        act(done)
        browser.until(lambda: browser.script("return window.times.length") > done, "a label")
    return browser.script("return window.times")


def add(result, what, rounds):
    for place, end in enumerate(["to the label in the page", "to the frame that shows it"]):
        for name, of in (("median", statistics.median), ("p95", p95)):
            values = [of([one[place] for one in times]) for times in rounds]
            result.add(f"{what} {end}, {name} of {TIMES}", "page", "ms", values)
            print(f"{what} {end}: {name} {statistics.median(values):.1f} ms", flush=True)


def digit(args, browser, result):
    """From pen up to label."""

    def stroke(_):
        # Strokes that pile up would no longer be a digit.
        browser.script("document.querySelector('#clear').click()")
        pad = browser.find("#pad")
        pen = ActionChains(browser.driver, duration=20).move_to_element_with_offset(pad, -55, -80).click_and_hold()
        pen.move_by_offset(110, 0).move_by_offset(-65, 160).release().perform()

    with Fleet(args, "--spawn", "2", "--models", str(ROOT / "models")) as fleet:
        rounds = []
        for _ in range(ROUNDS):
            browser.open(f"{fleet.url}/?mode=draw")
            browser.until(lambda: browser.find("#pill").text == "2 workers", "both workers")
            stroke(0)
            browser.label("7")
            browser.script(WATCH, "pointerup")
            rounds.append(watched(browser, TIMES, stroke))
    add(result, "digit: pen up", rounds)


@contextlib.contextmanager
def fleet_of_photos(args):
    """A fleet that recognises photos too, and the file of a photo of 224 pixels a side."""
    weights = DATA / "mobilenet_v2" / "model.safetensors"
    if not weights.exists():
        sys.exit("IMAGEFLEET_TEST_DATA has no mobilenet_v2/model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("mobilenet_v2"))
        command = [args.bin / "worker", "pull", "mobilenet_v2", "--from", weights, "--models", folder / "models"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        small = Image.open(DATA / "photos" / "n02123159_tiger_cat.jpg").convert("RGB").resize((224, 224))
        small.save(folder / "cat.jpg", quality=90)
        with Fleet(args, "--spawn", "2", "--models", folder / "models") as fleet:
            status = f"{fleet.url}/status.json"
            eventually(lambda: "mobilenet_v2" in requests.get(status, timeout=10).json()["models"], 60, "the photo model")
            yield fleet, folder / "cat.jpg"


def photo(args, browser, result):
    """From a chosen file to its label, when the picture decides which model answers."""
    with fleet_of_photos(args) as (fleet, cat):
        rounds = []
        for _ in range(ROUNDS):
            browser.open(fleet.url)
            browser.until(lambda: browser.script("return document.querySelector('#model').value") == "auto", "both models")
            browser.find("#image").send_keys(str(cat))
            browser.label()
            browser.script(WATCH, "change")
            rounds.append(watched(browser, TIMES, lambda _: browser.find("#image").send_keys(str(cat))))
    add(result, "photo of 224 pixels: chosen", rounds)


def rule(args, _browser, result):
    """The cost of choosing the model from the picture: the same photo with and without the model named."""
    with fleet_of_photos(args) as (fleet, cat), requests.Session() as session:
        body, times = cat.read_bytes(), {"mobilenet_v2": [], "auto": []}

        def prepared(model):
            headers = {"accept": "application/json", "content-type": "image/jpeg"}
            answer = session.post(f"{fleet.url}/predict?model={model}", data=body, headers=headers, timeout=30).json()
            assert answer["model"] == "mobilenet_v2", answer
            return answer["timings_ms"]["preprocess"]

        differences = []
        for _ in range(ROUNDS):
            # In turn, so that a slow moment is slow for both.
            pairs = [(prepared("auto"), prepared("mobilenet_v2")) for _ in range(2 * TIMES)]
            differences.append(statistics.median(one for one, _ in pairs) - statistics.median(other for _, other in pairs))
            times["auto"] += [one for one, _ in pairs]
            times["mobilenet_v2"] += [other for _, other in pairs]
    for of, values in times.items():
        result.add("preparation of a photo of 224 pixels, median", f"model={of}", "ms", [statistics.median(values)])
    result.add("that the picture decides", "worker", "ms", differences)
    print(f"that the picture decides: {statistics.median(differences):.3f} ms", flush=True)


class Bare(http.server.BaseHTTPRequestHandler):
    """A page of one word: the time that the browser alone takes on this machine."""

    def do_GET(self):
        page = b"<!doctype html><title>bare</title><p>word"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


def paint(args, browser, result):
    """From the navigation to the first paint of the page, on a first visit, compared with a page of one word."""
    bare = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare)
    threading.Thread(target=bare.serve_forever, daemon=True).start()
    with Fleet(args, "--spawn", "2", "--models", str(ROOT / "models")) as fleet:
        pages = {"page": fleet.url, "a page of one word": f"http://127.0.0.1:{bare.server_port}/"}
        times = {name: [] for name in pages}
        for name, url in list(pages.items()) * 20:
            browser.command("Network.clearBrowserCache")
            browser.open(url)
            read = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            times[name].append(browser.until(lambda: browser.script(read), "a first paint"))
    bare.shutdown()
    for name, values in times.items():
        result.add("first paint, first visit, median of 20", name, "ms", [statistics.median(values)])
        result.add("first paint, first visit, p95 of 20", name, "ms", [p95(values)])
        print(f"first paint of {name}: median {statistics.median(values):.0f} ms, p95 {p95(values):.0f} ms", flush=True)


def listen(address, ending):
    """An open page, as far as the balancer can tell: reads the events, and reconnects when the stream ends."""
    host, port = address.split(":")
    while not ending.is_set():
        with socket.create_connection((host, int(port)), timeout=1) as stream:
            stream.sendall(b"GET /status/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while not ending.is_set():
                try:
                    piece = stream.recv(65536)
                except TimeoutError:
                    continue
                if not piece or piece.endswith(b"0\r\n\r\n"):
                    break


def loaded(args, fleet, seconds):
    """The share of a core that the balancer uses under load, and the summary of that load."""
    words = ["load", "--target", fleet.url, "--get", "/v1/models/mnist", "--rate", str(RATE), "--warm-up", "0s",
             "--duration", f"{seconds}s", "--json", "--out", Path(fleet.folder.name) / f"load-{time.monotonic_ns()}"]
    before, start = fleet.seconds(), time.monotonic()
    done = subprocess.run([args.bin / "client", "--log", "error", *words], capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode not in (0, 3):
        sys.exit(f"client load: {done.stderr}")
    return 100 * (fleet.seconds() - before) / (time.monotonic() - start), json.loads(done.stdout)


def events(args, _browser, result):
    """What open pages cost while the fleet is busy."""
    with Fleet(args, "--spawn", "2", "--models", str(ROOT / "models")) as fleet:
        loaded(args, fleet, 2)
        without, with_pages, summaries = [], [], []

        def share():
            busy, summary = loaded(args, fleet, args.seconds)
            summaries.append(summary)
            return busy

        for _ in range(ROUNDS):
            without.append(share())
            ending = threading.Event()
            pages = [threading.Thread(target=listen, args=(fleet.program.address, ending)) for _ in range(STREAMS)]
            for page in pages:
                page.start()
            with_pages.append(share())
            ending.set()
            for page in pages:
                page.join()
    result.judge(summaries)
    more = [one - other for one, other in zip(with_pages, without)]
    result.add(f"share of a core at {RATE} requests/s", "no page open", "%", without)
    result.add(f"share of a core at {RATE} requests/s", f"{STREAMS} pages open", "%", with_pages)
    result.add(f"share of a core for {STREAMS} open pages at {RATE} requests/s", "balancer", "%", more)
    print(f"{STREAMS} open pages: {statistics.median(more):.1f} % of a core", flush=True)


def fleet_view(args, browser, result):
    """What the operator's view of a large fleet costs, at the balancer and in the browser."""
    with tempfile.TemporaryDirectory() as folder:
        workers = Path(folder) / "workers"
        workers.write_text("".join(f"w{n:03}=127.0.0.1:{20000 + n}\n" for n in range(ENDPOINTS)))
        with Fleet(args, "--workers-file", workers, "--probe-path", "") as fleet:
            time.sleep(args.age)
            idle, start = fleet.seconds(), time.monotonic()
            time.sleep(args.seconds)
            idle = 100 * (fleet.seconds() - idle) / (time.monotonic() - start)
            browser.open(f"{fleet.admin}/fleet")
            browser.until(lambda: browser.all(".curve"), "curves")
            browser.command("Performance.enable")

            def tasks():
                metrics = browser.command("Performance.getMetrics")["metrics"]
                return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

            spent, drawn, start = fleet.seconds(), tasks(), time.monotonic()
            time.sleep(args.seconds)
            took = time.monotonic() - start
            balancer = 100 * (fleet.seconds() - spent) / took - idle
            page = 100 * (tasks() - drawn) / took
    result.add(f"share of a core for the view of {ENDPOINTS} endpoints", "balancer", "%", [balancer])
    result.add(f"share of a core for the view of {ENDPOINTS} endpoints", "browser", "%", [page])
    print(f"view of {ENDPOINTS} endpoints: balancer {balancer:.1f} %, browser {page:.1f} % of a core", flush=True)


WHAT = {"digit": digit, "photo": photo, "rule": rule, "paint": paint, "events": events, "fleet": fleet_view}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*WHAT, "all"])
    parser.add_argument("--bin", type=Path, default=ROOT / "target" / "release", help="where the programs are")
    parser.add_argument("--seconds", type=int, default=10, help="length of a run of events and fleet")
    parser.add_argument("--age", type=int, default=60, help="seconds that the fleet is old whose view is measured: its curves grow for 300")
    args = parser.parse_args()
    browser = Browser(javascript=True)
    result = Result("page", command_line(), times=TIMES, rounds=ROUNDS, seconds=args.seconds, age=args.age,
                    browser=browser.driver.capabilities["browserVersion"])
    try:
        for name, measure in WHAT.items():
            if name in args.what or "all" in args.what:
                measure(args, browser, result)
    finally:
        browser.driver.quit()
    result.write()


if __name__ == "__main__":
    main()
