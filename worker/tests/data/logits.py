#!/usr/bin/env python3
"""Makes logits.json beside this file: what ONNX Runtime says about a MobileNetV2 of made-up weights.

    pip install numpy onnx onnxruntime pillow && python3 worker/tests/data/logits.py

Weights and input are drawn by `draw`, which the Rust tests have as well (`tests/networks/mod.rs`), so that
neither has to be stored: the same network there must say the same, with both paddings, and about a
picture that Pillow has prepared.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "scripts" / "inference"))

import network as net  # noqa: E402

CLASSES = 10
PICTURE = HERE / "jpeg" / "444.jpg"


def draw(name, shape, bound):
    """Numbers between -bound and bound that follow from the name and the place in the tensor alone."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = (np.arange(np.prod(shape), dtype=np.uint64) * 0x9E3779B1 + seed) & 0xFFFFFFFF
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        x = ((x ^ (x >> np.uint64(shift))) * factor) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    unit = (x >> np.uint64(8)).astype(np.float64) / 2**23 - 1
    return (unit * bound).astype(np.float32).reshape(shape)


def conv(name, shape, stride, relu6):
    weight = draw(f"{name}.weight", shape, (6 / np.prod(shape[1:])) ** 0.5)
    return net.Conv(weight, draw(f"{name}.bias", shape[:1], 0.2), stride, relu6)


def network(tf_padding):
    blocks = [([conv(name, shape, stride, relu6) for name, _, shape, stride, relu6 in block], skip) for block, skip in net.layers()]
    weight = draw("classifier.1.weight", (CLASSES, 1280), 0.05)
    return net.Network(blocks, weight, draw("classifier.1.bias", (CLASSES,), 0.2), tf_padding)


def run(tf_padding, batch):
    model = net.to_onnx(network(tf_padding), len(batch))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": batch})[0]


def prepared():
    """Shorter side 256 by triangle, 224 cut out of the middle, -1 to 1: as Pillow does it."""
    image = Image.open(PICTURE).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None].copy()


def main():
    batch = draw("input", (2, 3, 224, 224), 1)
    result = {
        "symmetric": run(False, batch).tolist(),
        "tf_same": run(True, batch).tolist(),
        "picture": PICTURE.relative_to(HERE).as_posix(),
        "picture_logits": run(True, prepared()).tolist(),
    }
    (HERE / "logits.json").write_text(json.dumps(result, indent=1) + "\n")
    for name in ("symmetric", "tf_same", "picture_logits"):
        print(name, np.round(np.array(result[name]), 2))


if __name__ == "__main__":
    main()
