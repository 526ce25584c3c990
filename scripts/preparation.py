"""How long the search for a digit takes in a photo of one megapixel, and how much of MNIST is read right when each
image is prepared as an upload is.

    cargo build --release && python3 scripts/preparation.py --data DIR

Draws its photos itself. Writes bench/results/preparation.DATE.COMMIT.json; without --data it measures only the time.
"""

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from record import Result, command_line  # noqa: E402

SIDE = 1024
INK, PAPER = 35, 235


def seven(left, top, size):
    """Whether a pixel is ink, for a seven in a square."""
    width = size / 12

    def is_ink(x, y):
        x, y = (x - left) / size, (y - top) / size
        if not (0 <= x <= 1 and 0 <= y <= 1):
            return False
        slant = abs(x - (0.85 - 0.6 * y)) * size < width
        return (0.15 < x < 0.9 and abs(y - 0.06) * size < width) or slant

    return is_ink


def ruled(is_ink):
    """The same on lined paper."""
    return lambda x, y: is_ink(x, y) or y % 64 < 2


PHOTOS = {
    "a large digit": seven(200, 150, 700),
    "a small digit": seven(640, 300, 90),
    "a digit on lined paper": ruled(seven(300, 250, 500)),
    "a thousand dashes": lambda x, y: x % 24 < 5 and y % 40 < 24,
    "nothing": lambda x, y: False,
}


def png(is_ink):
    """A grey photo under a lamp, with noise."""
    noise, rows = random.Random(1), []
    for y in range(SIDE):
        row = bytearray(1)
        for x in range(SIDE):
            light = 1 - 0.0002 * x - 0.0001 * y
            row.append(int((INK if is_ink(x, y) else PAPER) * light + noise.random() * 6))
        rows.append(bytes(row))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"".join(rows), 1)) + chunk(b"IEND", b"")


def classify(options, path, count):
    """Labels a photo `count` times in one process, and times the process."""
    command = [options.worker, "classify", "--json", "--models", options.models, "--model", "mnist"]
    begun = time.perf_counter()
    done = subprocess.run([*command, *[str(path)] * count], capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()], time.perf_counter() - begun


def milliseconds(options, path):
    """The time of each search after a few to warm up; if there is nothing to label, the average with decoding."""
    lines, _ = classify(options, path, options.count)
    if lines:
        taken = [line["timings_ms"]["preprocess"] for line in lines]
        return "search for a digit", taken[options.count // 5 :]
    one, all_of_them = (classify(options, path, count)[1] for count in (1, options.count))
    return "decoding and search", [1000 * (all_of_them - one) / (options.count - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", default=str(ROOT / "target" / "release" / "worker"))
    parser.add_argument("--models", default=str(ROOT / "models"))
    parser.add_argument("--data", help="folder of MNIST's IDX files")
    parser.add_argument("--count", type=int, default=50, help="how often each photo is prepared")
    options = parser.parse_args()
    result = Result("preparation", command_line(), pixels=SIDE * SIDE)
    with tempfile.TemporaryDirectory() as folder:
        for what, is_ink in PHOTOS.items():
            path = Path(folder) / "photo.png"
            path.write_bytes(png(is_ink))
            figure, taken = milliseconds(options, path)
            result.add(figure, what, "ms", taken)
    if options.data:
        command = [options.worker, "eval", "mnist", "--json", "--prepared", "--data", options.data]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(options.models).parent)
        report = json.loads(done.stdout)
        result.add("images of MNIST read right as they are served", "imagefleet", "%", [100 * report["accuracy"]])
    result.write()


if __name__ == "__main__":
    main()
