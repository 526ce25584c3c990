"""Times MobileNetV2 in this project and in other runtimes, in turn, on one pinned core."""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import network as net
import numpy as np
import runtimes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from record import Result, command_line  # noqa: E402

OURS = {
    "imagefleet auto": ["--precision", "auto"],
    "imagefleet f32": ["--precision", "f32"],
    "imagefleet f16 (no AMX)": ["--precision", "f16"],
    "imagefleet int8 (no AMX)": ["--precision", "int8"],
    "imagefleet f32, AVX2 only": ["--precision", "f32", "--isa", "avx2"],
}
BASE = "ONNX Runtime f32"
# Rows that run for batches of several images and for the digit model.
FEW = ["imagefleet auto", "imagefleet f32", BASE, "OpenVINO f32", "OpenVINO default"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8], help="images per pass of the photo model (1 8)")
    parser.add_argument("--digits", type=int, nargs="*", default=[1, 32], help="images per pass of the digit model (1 32)")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each row (8)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (0.3)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on (the last)")
    parser.add_argument("--models", default=str(ROOT / "models"), help="model repository (models)")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out rows with this word: torch, int8, LiteRT, JPEG")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return parser.parse_args()


def median_ms(run, seconds):
    """Median time of the passes of one turn, after one pass that does not count."""
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def ours(worker, model, batch, flags, options):
    """The report of one turn of `worker bench`, which inherits the affinity of this process."""
    command = [worker, "--log", "error", "bench", "--model", model, "--models", options.models, "--threads", "1"]
    command += ["--batch", str(batch), "--seconds", str(options.seconds), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout)


def photo(width=4000, height=3000):
    """A JPEG of twelve megapixels: smooth shapes, edges and grain, quality 90, chroma halved."""
    from PIL import Image

    rng = np.random.default_rng(2)
    coarse = rng.uniform(0, 255, (40, 54, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    grain = rng.normal(0, 5, (height, width, 1))
    pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def pillow(jpeg, run, draft):
    """Decode, resize to 256, crop, normalise and label, as scripts around ONNX Runtime do."""
    from PIL import Image

    def label():
        image = Image.open(io.BytesIO(jpeg))
        if draft:
            image.draft("RGB", (256, 256))
        image = image.convert("RGB")
        scale = 256 / min(image.size)
        width, height = int(image.size[0] * scale), int(image.size[1] * scale)
        image = image.resize((width, height), Image.BILINEAR)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        return int(run(((pixels / 127.5 - 1).transpose(2, 0, 1)[None]).copy()).argmax())

    return label


def classify(worker, path, options):
    """Milliseconds of one photo in `worker classify`, median of several in one process."""
    command = [worker, "--log", "error", "classify", "--models", options.models, "--model", "mobilenet_v2", "--json"]
    done = subprocess.run(command + [path] * 9, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    timings = [json.loads(line)["timings_ms"] for line in done.stdout.splitlines()]
    return statistics.median(t["decode"] + t["preprocess"] + t["compute"] for t in timings[2:])


def scaling(worker, cores, options):
    """Images per second of concurrent single-threaded processes on all of `cores`, relative to one alone."""
    command = [worker, "--log", "error", "bench", "--models", options.models, "--threads", "1", "--json"]
    command += ["--seconds", str(4 * options.seconds)]

    def rate(cores):
        pinned = [["taskset", "--cpu-list", str(core), *command] for core in cores]
        started = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in pinned]
        return sum(json.loads(process.communicate()[0])["images_per_second"] for process in started)

    return statistics.median(rate(cores) / rate(cores[:1]) for _ in range(5))


class Table:
    """Rows that take turns, in sections that each have a base."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.worker = str(ROOT / "target/release/worker")
        self.turns, self.missing, self.bases = {}, {}, {}
        # What `auto` chose on this processor.
        self.fastest = None

    def wants(self, name):
        return not any(word in name for word in self.options.skip)

    def add(self, section, name, turn):
        if self.wants(name) and self.wants(section):
            self.turns[section, name] = turn
            self.bases.setdefault(section, BASE)

    def networks(self, section, model, batch, rows):
        """Adds the rows of one network and batch, ours and other runtimes'; returns the latter's callables by name."""
        built, missing = rows
        for name, flags in OURS.items():
            if batch == 1 and model != "mnist" or name in FEW and (model != "mnist" or "f32" in name):
                self.add(section, name, lambda name=name, flags=flags: self.own_turn(name, model, batch, flags))
        shape = (batch, 1, 28, 28) if model == "mnist" else (batch, 3, 224, 224)
        x = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
        for name, run in built.items():
            self.add(section, name, lambda run=run: median_ms(lambda: run(x), self.options.seconds))
        self.missing |= {(section, name): reason for name, reason in missing.items()}
        check(built, x)
        return built

    def own_turn(self, name, model, batch, flags):
        said = ours(self.worker, model, batch, flags, self.options)
        if name == "imagefleet auto" and model != "mnist":
            self.fastest = f"{said['precision']} on {said['isa']}"
        return said["latency_ms"]["p50"]

    def photos(self, network, weights):
        for batch in self.options.batch:
            rows = runtimes.build(network, batch, self.options.skip, self.folder, FEW if batch > 1 else None)
            built = self.networks(f"MobileNetV2, batch {batch}", "mobilenet_v2", batch, rows)
            if batch == 1 and BASE in built and self.wants("JPEG"):
                self.jpeg(built[BASE], weights)

    def jpeg(self, run, weights):
        section, path = "12 MP JPEG to label", os.path.join(self.folder, "photo.jpg")
        Path(path).write_bytes(photo())
        jpeg = Path(path).read_bytes()
        self.bases[section] = "Pillow + ONNX Runtime"
        if weights:
            self.add(section, "imagefleet auto", lambda: classify(self.worker, path, self.options))
        for name, draft in [("Pillow + ONNX Runtime", False), ("Pillow draft + ONNX Runtime", True)]:
            label = pillow(jpeg, run, draft)
            self.add(section, name, lambda label=label: median_ms(label, self.options.seconds))

    def digits(self):
        weights = net.find_weights(self.options.models, "mnist")
        for batch in self.options.digits if weights else []:
            rows = runtimes.build_digits(net.digits_onnx(weights, batch), FEW)
            self.networks(f"digit model, batch {batch}", "mnist", batch, rows)

    def run(self):
        """Milliseconds of every turn of every row."""
        times = {row: [] for row in self.turns}
        for number in range(self.options.rounds):
            for row, turn in list(self.turns.items()):
                print(f"\rround {number + 1} of {self.options.rounds}: {', '.join(row):60}", end="", file=sys.stderr)
                try:
                    times[row].append(turn())
                except (RuntimeError, OSError) as error:
                    self.missing[row] = str(error)
                    del self.turns[row]
        print("\r" + " " * 90 + "\r", end="", file=sys.stderr)
        return times


def check(built, x):
    """Warns if float runtimes disagree on the logits: all must run the same network."""
    logits = {name: np.asarray(run(x)) for name, run in built.items() if name.endswith("f32")}
    for name, values in logits.items():
        difference = np.abs(values - logits.get(BASE, values)).max()
        if difference > 1e-2:
            print(f"warning: {name} differs from {BASE} by {difference:.3f}", file=sys.stderr)


def main():
    options = arguments()
    allowed = os.sched_getaffinity(0)
    cores = [options.core, *sorted(allowed - {options.core})][:2]
    os.sched_setaffinity(0, {options.core})
    weights = net.find_weights(options.models)
    with tempfile.TemporaryDirectory() as folder:
        table = Table(options, folder)
        table.photos(net.load(weights), weights)
        table.digits()
        times = table.run()
    workers = scaling(table.worker, cores, options) if len(cores) == 2 else None
    # The record describes the whole machine, not the one core.
    os.sched_setaffinity(0, allowed)
    rows = []
    for section, name in table.turns:
        own, base = times[section, name], times.get((section, table.bases[section]))
        ratio = statistics.median(a / b for a, b in zip(own, base)) if base else None
        row = {"section": section, "name": name, "ms": round(statistics.median(own), 4)}
        rows.append(row | {"min_ms": round(min(own), 4), "ratio": ratio and round(ratio, 3)})
    record(options, times, workers, table)
    report(options, (weights, workers), rows, table)


# Names of rows in the tables of the documents.
NAMES = {
    "imagefleet f16 (no AMX)": "imagefleet f16, without AMX",
    "imagefleet int8 (no AMX)": "imagefleet int8, without AMX",
    "Pillow + ONNX Runtime": "Pillow and ONNX Runtime",
    "Pillow draft + ONNX Runtime": "Pillow's draft mode and ONNX Runtime",
}


def record(options, times, workers, table):
    """Writes the median of every turn of every row to bench/results, and the ratios to each section's base."""
    kept = [row for row in table.turns if times[row]]
    settings = {"turns": options.rounds, "threads": 1, "auto": table.fastest or "not run"}
    result, ratios = (Result(name, command_line(), **settings) for name in ("inference", "inference-ratios"))
    for section, name in kept:
        own, base = times[section, name], times.get((section, table.bases[section]))
        if section == "12 MP JPEG to label":
            what, of = "JPEG of 12 megapixels to its label", NAMES.get(name, "imagefleet")
        else:
            what, of = section, NAMES.get(name, name)
        result.add(what, of, "ms", own)
        if base and name != table.bases[section]:
            ratios.add(f"{what}: share of {table.bases[section]}", of, "", [a / b for a, b in zip(own, base)])
    if workers:
        result.add("images per second of two processes over one", "imagefleet", "x", [workers])
    result.write()
    if ratios.content["figures"]:
        ratios.write()


def report(options, found, rows, table):
    weights, workers = found
    missing = [{"section": section, "name": name, "reason": reason} for (section, name), reason in table.missing.items()]
    if options.json:
        print(json.dumps({"rounds": options.rounds, "seconds": options.seconds, "rows": rows, "two_workers": workers, "missing": missing}))
        return
    kind = "weights of the repository" if weights else "made-up weights"
    print(f"one thread on core {options.core}, {kind}; {options.rounds} interleaved turns of {options.seconds} s")
    print("ms per pass: median of the turns; ratio: median over the turns of the row's time to that of the section's base")
    section = None
    for row in rows:
        if row["section"] != section:
            section = row["section"]
            print(f"\n{section + ' (base: ' + table.bases[section] + ')':52}{'ms':>9}{'ratio':>8}")
        ratio = f"{row['ratio']:8.3f}" if row["ratio"] else f"{'':8}"
        print(f"  {row['name']:50}{row['ms']:9.3f}{ratio}")
    if workers:
        print(f"\ntwo processes of one thread on two cores: {workers:.2f} times the images per second of one")
    for row in missing:
        print(f"not run: {row['section']}, {row['name']}: {row['reason']}")


if __name__ == "__main__":
    main()
