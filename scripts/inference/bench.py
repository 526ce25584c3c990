"""Times MobileNetV2 in this project and in other runtimes, turn by turn on one pinned core."""

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
OURS = {
    "imagefleet auto": ["--precision", "auto"],
    "imagefleet f32": ["--precision", "f32"],
    "imagefleet f32, AVX2 only": ["--precision", "f32", "--isa", "avx2"],
}
BASE = "ONNX Runtime f32"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1, help="images a pass (1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each runtime (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (2)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on (the last)")
    parser.add_argument("--models", default=str(ROOT / "models"), help="model repository (models)")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out rows with this word: torch, int8, LiteRT, JPEG")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return parser.parse_args()


def median_ms(run, seconds):
    """Median of the passes of one turn, after one that does not count."""
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def ours(worker, flags, options):
    """Median of one turn of `worker bench`; the affinity of this process is inherited."""
    command = [worker, "--log", "error", "bench", "--model", "mobilenet_v2", "--models", options.models, "--threads", "1"]
    command += ["--batch", str(options.batch), "--seconds", str(options.seconds), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout)["latency_ms"]["p50"]


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


def subjects(options, weights, folder):
    """Everything that takes turns: name to a function that gives the median of one turn."""
    network = net.load(weights)
    worker = str(ROOT / "target/release/worker")
    turns = {name: (lambda flags=flags: ours(worker, flags, options)) for name, flags in OURS.items()}
    built, missing = runtimes.build(network, options.batch, options.skip, folder)
    x = np.random.default_rng(3).uniform(-1, 1, (options.batch, 3, 224, 224)).astype(np.float32)
    for name, run in built.items():
        turns[name] = lambda run=run: median_ms(lambda: run(x), options.seconds)
    if options.batch == 1 and BASE in built and "JPEG" not in options.skip:
        path = os.path.join(folder, "photo.jpg")
        Path(path).write_bytes(photo())
        jpeg = Path(path).read_bytes()
        if weights:
            turns["12 MP JPEG: imagefleet"] = lambda: classify(worker, path, options)
        turns["12 MP JPEG: Pillow + ONNX Runtime"] = lambda: median_ms(pillow(jpeg, built[BASE], False), options.seconds)
        turns["12 MP JPEG: Pillow draft + ONNX Runtime"] = lambda: median_ms(pillow(jpeg, built[BASE], True), options.seconds)
    check(built, x)
    return turns, missing


def check(built, x):
    """The same network everywhere: float runtimes must agree on the logits."""
    logits = {name: np.asarray(run(x)) for name, run in built.items() if name.endswith("f32")}
    for name, values in logits.items():
        difference = np.abs(values - logits.get(BASE, values)).max()
        if difference > 1e-2:
            print(f"warning: {name} differs from {BASE} by {difference:.3f}", file=sys.stderr)


def base_of(name):
    return "12 MP JPEG: Pillow + ONNX Runtime" if name.startswith("12 MP") else BASE


def main():
    options = arguments()
    os.sched_setaffinity(0, {options.core})
    weights = net.find_weights(options.models)
    with tempfile.TemporaryDirectory() as folder:
        turns, missing = subjects(options, weights, folder)
        times = {name: [] for name in turns}
        for number in range(options.rounds):
            for name, turn in list(turns.items()):
                print(f"\rround {number + 1} of {options.rounds}: {name:45}", end="", file=sys.stderr)
                try:
                    times[name].append(turn())
                except (RuntimeError, OSError) as error:
                    missing[name] = str(error)
                    del turns[name]
    print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
    rows = []
    for name in turns:
        base = times.get(base_of(name)) or times[name]
        ratio = statistics.median(own / other for own, other in zip(times[name], base))
        rows.append({"name": name, "ms": round(statistics.median(times[name]), 3), "ratio": round(ratio, 3)})
    report(options, weights, rows, missing)


def report(options, weights, rows, missing):
    if options.json:
        print(json.dumps({"batch": options.batch, "rounds": options.rounds, "rows": rows, "missing": missing}))
        return
    kind = "weights of the repository" if weights else "made-up weights"
    print(f"MobileNetV2 1.0 224, batch {options.batch}, one thread on core {options.core}, {kind}")
    print(f"medians of {options.rounds} interleaved turns of {options.seconds} s; the ratio is to {BASE} of the same turn")
    print(f"{'':42}{'ms':>9}{'ratio':>8}")
    for row in rows:
        print(f"{row['name']:42}{row['ms']:9.2f}{row['ratio']:8.2f}")
    for name, reason in missing.items():
        print(f"{name:42}  not run: {reason}")


if __name__ == "__main__":
    main()
