"""The network in other runtimes: each function returns a callable that runs one batch on one thread."""

import os
import tempfile

import numpy as np
from network import pads, to_onnx


def onnx_runtime(model):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def quantised(model, batch, samples=8):
    """int8 by ONNX Runtime's static quantisation; random images calibrate well enough for a timing."""
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Random(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(1)
            self.left = iter({"x": rng.uniform(-1, 1, (batch, 3, 224, 224)).astype(np.float32)} for _ in range(samples))

        def get_next(self):
            return next(self.left, None)

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "f32.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(source, target, Random(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return onnx.load(target)


def openvino(model, precision=None, halves=False):
    """`precision` is that of the arithmetic; `halves` keeps the weights in f16, as OpenVINO's converter does.

    Arithmetic in f16 runs on AVX512-FP16 where AMX has no f16, several times slower than the default
    (bf16 on AMX tiles), which is what models with f16 weights get.
    """
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    network = core.read_model(model.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        if halves:
            path = os.path.join(folder, "f16.xml")
            ov.save_model(network, path, compress_to_fp16=True)
            network = core.read_model(path)
        compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: request.infer({0: x}, share_inputs=True)[0]


def torch_script(network, batch):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    tensor = lambda array: torch.from_numpy(np.ascontiguousarray(array))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = [
                (
                    [
                        (tensor(c.weight).contiguous(memory_format=torch.channels_last), tensor(c.bias), c.stride, pads(network, c), c.groups, c.relu6)
                        for c in convs
                    ],
                    skip,
                )
                for convs, skip in network.blocks
            ]
            self.last = tensor(network.weight), tensor(network.bias)

        def forward(self, x):
            for convs, skip in self.convs:
                before = x
                for weight, bias, stride, (top, left, bottom, right), groups, relu6 in convs:
                    if (top, left) != (bottom, right):
                        x, top = F.pad(x, (left, right, top, bottom)), 0
                    x = F.conv2d(x, weight, bias, stride, top, 1, groups)
                    if relu6:
                        x = torch.clamp(x, 0, 6)
                if skip:
                    x = before + x
            return F.linear(x.mean((2, 3)), *self.last)

    with torch.inference_mode():
        example = torch.zeros(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        script = torch.jit.freeze(torch.jit.trace(Net().eval(), example).eval())

    def run(x):
        with torch.inference_mode():
            return script(torch.from_numpy(x).contiguous(memory_format=torch.channels_last)).numpy()

    return run


def litert(network, batch, folder):
    """LiteRT with XNNPACK, from a flatbuffer written here: there is no small ONNX converter."""
    from ai_edge_litert.interpreter import Interpreter
    from flatbuffer import to_tflite

    path = os.path.join(folder, "f32.tflite")
    with open(path, "wb") as file:
        file.write(to_tflite(network, batch))
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x):
        interpreter.set_tensor(source, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def build(network, batch, skip, folder, only=None):
    """Callables by name, in the order of the table, and the reasons for those that cannot be built."""
    model = to_onnx(network, batch)
    int8 = None if "int8" in skip or only else quantised(model, batch)
    builders = {
        "ONNX Runtime f32": lambda: onnx_runtime(model),
        "ONNX Runtime int8": lambda: onnx_runtime(int8),
        "OpenVINO f32": lambda: openvino(model, "f32"),
        "OpenVINO default": lambda: openvino(model),
        "OpenVINO f16 weights": lambda: openvino(model, halves=True),
        "OpenVINO f16 arithmetic": lambda: openvino(model, "f16"),
        "OpenVINO int8": lambda: openvino(int8),
        "LiteRT f32": lambda: litert(network, batch, folder),
        "torch scripted f32": lambda: torch_script(network, batch),
    }
    return build_each({name: make for name, make in builders.items() if not only or name in only}, skip)


def build_digits(model, only):
    """The same for the digit network."""
    builders = {
        "ONNX Runtime f32": lambda: onnx_runtime(model),
        "OpenVINO f32": lambda: openvino(model, "f32"),
        "OpenVINO default": lambda: openvino(model),
    }
    return build_each({name: make for name, make in builders.items() if name in only}, [])


def build_each(builders, skip):
    runtimes, missing = {}, {}
    for name, builder in builders.items():
        if any(word in name for word in skip):
            continue
        try:
            runtimes[name] = builder()
        except Exception as error:  # a runtime that does not support this machine must not stop the others
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return runtimes, missing
