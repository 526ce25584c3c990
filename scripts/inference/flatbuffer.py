"""The network as a LiteRT (TensorFlow Lite) flatbuffer: four operators, float32, NHWC."""

import flatbuffers
import numpy as np
import tflite

OPERATORS = [tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D, tflite.BuiltinOperator.ADD, tflite.BuiltinOperator.MEAN, tflite.BuiltinOperator.FULLY_CONNECTED]
CONV, DEPTHWISE, ADD, MEAN, DENSE = range(5)


class Writer:
    """Collects tensors and operators, then writes them in the order that flatbuffers require."""

    def __init__(self):
        self.builder = flatbuffers.Builder(16 << 20)
        self.buffers, self.tensors, self.operators = [b""], [], []

    def tensor(self, shape, values=None):
        buffer, kind = 0, tflite.TensorType.FLOAT32
        if values is not None:
            kind = tflite.TensorType.INT32 if values.dtype == np.int32 else kind
            buffer = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(values).tobytes())
        self.tensors.append((shape, kind, buffer))
        return len(self.tensors) - 1

    def constant(self, values):
        return self.tensor(values.shape, values)

    def vector(self, values):
        return self.builder.CreateNumpyVector(np.asarray(values, np.int32))

    def offsets(self, start, offsets):
        start(self.builder, len(offsets))
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def options(self, kind, stride, relu6):
        """The options table of an operator, and the number of its type."""
        b = self.builder
        activation = tflite.ActivationFunctionType.RELU6 if relu6 else tflite.ActivationFunctionType.NONE
        if kind == MEAN:
            tflite.ReducerOptionsStart(b)
            return tflite.ReducerOptionsEnd(b), tflite.BuiltinOptions.ReducerOptions
        if kind in (ADD, DENSE):
            name = "Add" if kind == ADD else "FullyConnected"
            getattr(tflite, f"{name}OptionsStart")(b)
            return getattr(tflite, f"{name}OptionsEnd")(b), getattr(tflite.BuiltinOptions, f"{name}Options")
        name = "Conv2D" if kind == CONV else "DepthwiseConv2D"
        getattr(tflite, f"{name}OptionsStart")(b)
        getattr(tflite, f"{name}OptionsAddPadding")(b, tflite.Padding.SAME)
        getattr(tflite, f"{name}OptionsAddStrideH")(b, stride)
        getattr(tflite, f"{name}OptionsAddStrideW")(b, stride)
        getattr(tflite, f"{name}OptionsAddFusedActivationFunction")(b, activation)
        if kind == DEPTHWISE:
            tflite.DepthwiseConv2DOptionsAddDepthMultiplier(b, 1)
        return getattr(tflite, f"{name}OptionsEnd")(b), getattr(tflite.BuiltinOptions, f"{name}Options")

    def finish(self, source, target):
        b = self.builder
        buffers = []
        for content in self.buffers:
            data = b.CreateByteVector(content) if content else None
            tflite.BufferStart(b)
            if data is not None:
                tflite.BufferAddData(b, data)
            buffers.append(tflite.BufferEnd(b))
        tensors = []
        for shape, kind, buffer in self.tensors:
            shape = self.vector(shape)
            tflite.TensorStart(b)
            tflite.TensorAddShape(b, shape)
            tflite.TensorAddType(b, kind)
            tflite.TensorAddBuffer(b, buffer)
            tensors.append(tflite.TensorEnd(b))
        operators = []
        for kind, inputs, output, stride, relu6 in self.operators:
            options, options_type = self.options(kind, stride, relu6)
            inputs, outputs = self.vector(inputs), self.vector([output])
            tflite.OperatorStart(b)
            tflite.OperatorAddOpcodeIndex(b, kind)
            tflite.OperatorAddInputs(b, inputs)
            tflite.OperatorAddOutputs(b, outputs)
            tflite.OperatorAddBuiltinOptionsType(b, options_type)
            tflite.OperatorAddBuiltinOptions(b, options)
            operators.append(tflite.OperatorEnd(b))
        tensors = self.offsets(tflite.SubGraphStartTensorsVector, tensors)
        operators = self.offsets(tflite.SubGraphStartOperatorsVector, operators)
        inputs, outputs = self.vector([source]), self.vector([target])
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddInputs(b, inputs)
        tflite.SubGraphAddOutputs(b, outputs)
        tflite.SubGraphAddOperators(b, operators)
        graphs = self.offsets(tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(b)])
        codes = []
        for code in OPERATORS:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, code)
            tflite.OperatorCodeAddBuiltinCode(b, code)
            tflite.OperatorCodeAddVersion(b, 1)
            codes.append(tflite.OperatorCodeEnd(b))
        codes = self.offsets(tflite.ModelStartOperatorCodesVector, codes)
        buffers = self.offsets(tflite.ModelStartBuffersVector, buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())


def to_tflite(network, batch):
    """The bytes of a .tflite file. TensorFlow's padding only: that is all LiteRT has."""
    if not network.tf_padding:
        raise ValueError("LiteRT pads as TensorFlow does, and these weights do not")
    writer = Writer()
    source = x = writer.tensor((batch, 224, 224, 3))
    side = 224
    for convs, has_skip in network.blocks:
        before = x
        for conv in convs:
            depthwise = conv.groups > 1
            side = -(-side // conv.stride)
            weight = conv.weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
            output = writer.tensor((batch, side, side, conv.weight.shape[0]))
            inputs = [x, writer.constant(np.ascontiguousarray(weight)), writer.constant(conv.bias)]
            writer.operators.append((DEPTHWISE if depthwise else CONV, inputs, output, conv.stride, conv.relu6))
            x = output
        if has_skip:
            output = writer.tensor((batch, side, side, convs[-1].weight.shape[0]))
            writer.operators.append((ADD, [before, x], output, 1, False))
            x = output
    mean = writer.tensor((batch, 1280))
    writer.operators.append((MEAN, [x, writer.constant(np.array([1, 2], np.int32))], mean, 1, False))
    logits = writer.tensor((batch, 1000))
    dense = [mean, writer.constant(network.weight), writer.constant(network.bias)]
    writer.operators.append((DENSE, dense, logits, 1, False))
    return writer.finish(source, logits)
