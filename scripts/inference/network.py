"""MobileNetV2 1.0 from a safetensors file as a list of layers, and as an ONNX model."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


@dataclass
class Conv:
    """One convolution, batch norm folded in."""

    weight: np.ndarray  # outputs, inputs / groups, rows, columns
    bias: np.ndarray
    stride: int
    relu6: bool

    @property
    def groups(self):
        return self.weight.shape[0] if self.weight.shape[1] == 1 else 1


@dataclass
class Network:
    """Blocks of convolutions; a block may add its input. Then mean and classifier."""

    blocks: list  # of (convolutions, has_skip)
    weight: np.ndarray
    bias: np.ndarray
    tf_padding: bool


def layers():
    """(convolution, batch norm, weight shape, stride, relu6) of each block, and its skip."""
    blocks = [([("features.0.0", "features.0.1", (32, 3, 3, 3), 2, True)], False)]
    inputs = 32
    for expansion, outputs, repeats, first in STAGES:
        for repeat in range(repeats):
            stride, hidden, prefix = (first if repeat == 0 else 1), inputs * expansion, f"features.{len(blocks)}.conv"
            convs = []
            if hidden != inputs:
                convs.append((f"{prefix}.0.0", f"{prefix}.0.1", (hidden, inputs, 1, 1), 1, True))
            at = len(convs)
            convs.append((f"{prefix}.{at}.0", f"{prefix}.{at}.1", (hidden, 1, 3, 3), stride, True))
            convs.append((f"{prefix}.{at + 1}", f"{prefix}.{at + 2}", (outputs, hidden, 1, 1), 1, False))
            blocks.append((convs, stride == 1 and inputs == outputs))
            inputs = outputs
    blocks.append(([("features.18.0", "features.18.1", (1280, inputs, 1, 1), 1, True)], False))
    return blocks


def find_weights(models, model="mobilenet_v2"):
    """The weights of the newest version in a model repository, or `None`."""
    versions = sorted(Path(models).glob(f"{model}/[0-9]*/weights.safetensors"), key=lambda p: int(p.parent.name))
    return versions[-1] if versions else None


def load(path):
    """Reads either layout; without a path, makes up weights of the usual size."""
    if path is None:
        rng = np.random.default_rng(0)
        draw = lambda *shape: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        convs = lambda block: [Conv(draw(*shape), np.zeros(shape[0], np.float32), stride, relu6) for _, _, shape, stride, relu6 in block]
        return Network([(convs(block), skip) for block, skip in layers()], draw(1000, 1280), np.zeros(1000, np.float32), True)
    from safetensors.numpy import load_file

    tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
    with open(path, "rb") as file:
        about = json.loads(file.read(struct.unpack("<Q", file.read(8))[0])).get("__metadata__", {})

    def conv(name, norm, shape, stride, relu6):
        weight = tensors[f"{name}.weight"].reshape(shape)
        if f"{name}.bias" in tensors:
            return Conv(weight, tensors[f"{name}.bias"], stride, relu6)
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-5)
        bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        return Conv(weight * scale[:, None, None, None], bias, stride, relu6)

    blocks = [([conv(*spec) for spec in block], skip) for block, skip in layers()]
    return Network(blocks, tensors["classifier.1.weight"], tensors["classifier.1.bias"], about.get("padding") == "tf_same")


def pads(network, conv):
    """Top, left, bottom, right."""
    if conv.weight.shape[2] == 1:
        return [0, 0, 0, 0]
    return [0, 0, 1, 1] if conv.stride == 2 and network.tf_padding else [1, 1, 1, 1]


def to_onnx(network, batch):
    """The network as a checked ONNX model with input `x` and output `logits`."""
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    low, high, x, count = constant("low", np.float32(0)), constant("high", np.float32(6)), "x", 0
    for convs, has_skip in network.blocks:
        before = x
        for conv in convs:
            names = [x, constant(f"w{count}", conv.weight), constant(f"b{count}", conv.bias)]
            nodes.append(helper.make_node("Conv", names, [f"c{count}"], strides=[conv.stride] * 2, pads=pads(network, conv), group=conv.groups))
            x = f"c{count}"
            if conv.relu6:
                nodes.append(helper.make_node("Clip", [x, low, high], [f"r{count}"]))
                x = f"r{count}"
            count += 1
        if has_skip:
            nodes.append(helper.make_node("Add", [before, x], [f"s{count}"]))
            x = f"s{count}"
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", constant("w", network.weight), constant("b", network.bias)], ["logits"], transB=1))
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "mobilenet_v2", [value("x", [batch, 3, 224, 224])], [value("logits", [batch, 1000])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def digits_onnx(path, batch):
    """The digit network of `worker train mnist` as a checked ONNX model."""
    from safetensors.numpy import load_file

    constants = [numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name) for name, array in load_file(path).items()]
    nodes, x = [], "x"

    def then(kind, *names, **attributes):
        nonlocal x
        nodes.append(helper.make_node(kind, [x, *names], [f"t{len(nodes)}"], **attributes))
        x = f"t{len(nodes) - 1}"

    for layer in ("conv1", "conv2"):
        then("Conv", f"{layer}.weight", f"{layer}.bias", pads=[2] * 4)
        then("Relu")
        then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    then("Flatten")
    then("Gemm", "fc1.weight", "fc1.bias", transB=1)
    then("Relu")
    then("Gemm", "fc2.weight", "fc2.bias", transB=1)
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "digits", [value("x", [batch, 1, 28, 28])], [value(x, [batch, 10])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
