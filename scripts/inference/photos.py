"""Do photos of twelve megapixels keep their label? Every photo of a folder, as phones store them.

    .venv-bench/bin/python scripts/inference/photos.py PHOTOS
    .venv-bench/bin/python scripts/inference/photos.py PHOTOS --megapixels 3 --mirror

Each photo is enlarged and stored three times: baseline JPEG, lying on its side with an EXIF
orientation, and progressive. `worker classify` labels the files in f32, since it is the decoding that is
under test. It is compared with the exact path: Pillow (every pixel decoded, then resized) with ONNX
Runtime in f32. Exits with 1 if fewer than 99 % of the labels are equal.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import network as net
import numpy as np
import runtimes
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
LEAST = 0.99
ORIENTATION = 0x0112


def enlarge(path, options):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if options.mirror:
        image = ImageOps.mirror(image)
    scale = (options.megapixels * 1e6 / (image.width * image.height)) ** 0.5
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.LANCZOS)


def baseline(image, file):
    image.save(file, "JPEG", quality=90)


def turned(image, file):
    """Stored a quarter turn to the left; orientation 6 turns it back."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.transpose(Image.ROTATE_90).save(file, "JPEG", quality=90, exif=exif)


def progressive(image, file):
    image.save(file, "JPEG", quality=90, progressive=True)


def exact(path, run):
    """The label with every pixel decoded."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = 256 / min(image.size)
    width, height = int(image.size[0] * scale), int(image.size[1] * scale)
    image = image.resize((width, height), Image.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return int(run((pixels / 127.5 - 1).transpose(2, 0, 1)[None].copy()).argmax())


def classify(worker, models, paths):
    command = [worker, "--log", "error", "classify", "--models", models, "--model", "mobilenet_v2"]
    command += ["--precision", "f32", "--json", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line)["index"] for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="model repository (models)")
    parser.add_argument("--worker", type=Path, default=ROOT / "target/release/worker", help="the program")
    parser.add_argument("--megapixels", type=float, default=12, help="size of the enlarged photos (12)")
    parser.add_argument("--mirror", action="store_true", help="photos that no setting was tuned for")
    options = parser.parse_args()
    weights = net.find_weights(options.models)
    if weights is None:
        sys.exit(f"no MobileNetV2 in {options.models}: worker pull mobilenet_v2")
    run = runtimes.onnx_runtime(net.to_onnx(net.load(weights), 1))
    sources = sorted(path for path in options.photos.iterdir() if path.suffix in (".jpg", ".png"))
    equal = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for store in (baseline, turned, progressive):
            paths = [Path(folder) / f"{source.stem}.jpg" for source in sources]
            for source, path in zip(sources, paths):
                store(enlarge(source, options), path)
            wanted = [exact(path, run) for path in paths]
            found = classify(options.worker, options.models, paths)
            same = sum(a == b for a, b in zip(wanted, found, strict=True))
            print(f"{store.__name__:12} {same} of {len(paths)} photos with the label of the exact path")
            for source, a, b in zip(sources, wanted, found):
                if a != b:
                    print(f"  {source.name}: {b}, not {a}")
            equal, total = equal + same, total + len(paths)
    print(f"{100 * equal / total:.1f} % equal")
    sys.exit(equal < LEAST * total)


if __name__ == "__main__":
    main()
