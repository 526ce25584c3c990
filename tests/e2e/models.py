"""Model repositories that the tests write themselves: tiny tables, and parts of the shipped models."""

import json
import shutil
import struct

from fleet import ROOT


def write_line(models, name, version, slope, offset):
    """A model `y = slope * x + offset` with the one column `x`, as a version of `name`."""
    folder = models / name / f".{version}"
    folder.mkdir(parents=True)
    layout, values = {}, b""
    for tensor, shape, value in [("weight", [1, 1], slope), ("bias", [1], offset)]:
        layout[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [len(values), len(values) + 4]}
        values += struct.pack("<f", value)
    head = json.dumps(layout).encode()
    (folder / "weights.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + values)
    (folder / "model.toml").write_text(
        'architecture = "linear"\n[table]\nlabel = "y"\ntask = "regression"\n'
        'columns = [{ name = "x", type = "number", mean = 0.0, std = 1.0 }]\n'
    )
    # The worker never sees half a version.
    folder.rename(models / name / str(version))


def copy_shipped(models, *names):
    """Copies models from the repository."""
    for name in names:
        shutil.copytree(ROOT / "models" / name, models / name)
    return models
