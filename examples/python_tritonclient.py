"""Triton's own Python client against imagefleet: only the address differs.

    python3 examples/python_tritonclient.py [HOST:PORT]
"""

import os
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("IMAGEFLEET", "http://localhost:5000").split("://")[-1]
SEVEN = Path(__file__).resolve().parents[1] / "docs" / "seven.png"


def tensor(values, datatype):
    """An input of the digit model."""
    made = triton.InferInput("image", list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def main():
    client = triton.InferenceServerClient(ADDRESS)
    metadata = client.get_model_metadata("mnist")
    print("inputs:", metadata["inputs"])

    # A batch of four pictures as numbers from 0 to 1; here they are noise.
    pixels = np.random.default_rng(0).random((4, 28, 28), dtype=np.float32)
    answer = client.infer("mnist", [tensor(pixels, "FP32")])
    print("probabilities:", answer.as_numpy("probabilities").shape)

    # An image file, which the worker decodes and prepares.
    file = np.array([SEVEN.read_bytes()], dtype=np.object_)
    answer = client.infer("mnist", [tensor(file, "BYTES")])
    print("digit:", int(answer.as_numpy("probabilities").argmax()))


if __name__ == "__main__":
    main()
