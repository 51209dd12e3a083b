"""From TensorFlow Lite to ONNX, for the operators that MediaPipe's face models are made of.

TensorFlow keeps images as [batch, height, width, channels], ONNX as [batch, channels, height, width]: every tensor of
four axes changes its layout on the way, and is laid out as before only where an operator looks at its shape (RESHAPE)
and at the model's input. Half-precision constants become single precision. The three custom operators of the attention
mesh are expressed by standard ONNX operators; what they compute is written at each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tflite
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sonic_runtime.models.tflite_graph import Graph, Operator, UnknownGraph

OPSET = 17
IR_VERSION = 9
_TO_NCHW = (0, 3, 1, 2)
_TO_NHWC = (0, 2, 3, 1)
_RELUS = {tflite.ActivationFunctionType.RELU: "Relu", tflite.ActivationFunctionType.RELU6: "Clip"}


def convert(data: bytes, name: str) -> onnx.ModelProto:
    """The same network as an ONNX model; inputs and outputs keep their names and their layout.

    Raises UnknownGraph.
    """
    graph = Graph(data)
    made = _Conversion(graph).run(name)
    onnx.checker.check_model(made)
    return made


class _Conversion:
    """One pass over the operators; `_names` knows what each TensorFlow tensor is called in ONNX."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._names: dict[int, str] = {}
        self._constants: dict[int, NDArray[Any]] = {}
        self._operators: dict[str, Callable[[Operator], str]] = {
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "MAX_POOL_2D": self._max_pool,
            "RELU": lambda op: self._add("Relu", [self._value(op.inputs[0])]),
            "PRELU": self._prelu,
            "ADD": lambda op: self._binary("Add", op),
            "MUL": lambda op: self._binary("Mul", op),
            "PAD": self._pad,
            "RESHAPE": self._reshape,
            "CONCATENATION": self._concatenate,
            "STRIDED_SLICE": self._strided_slice,
            "Landmarks2TransformMatrix": self._transform_matrix,
            "TransformTensorBilinear": self._transform_tensor,
            "TransformLandmarks": self._transform_landmarks,
        }

    def run(self, name: str) -> onnx.ModelProto:
        inputs = [self._input(tensor) for tensor in self._graph.inputs]
        for operator in self._graph.operators():
            self._step(operator)
        outputs = [self._output(tensor) for tensor in self._graph.outputs]
        made = helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _step(self, operator: Operator) -> None:
        if operator.name == "DEQUANTIZE":  # half-precision weights
            self._constants[operator.outputs[0]] = self._constant(operator.inputs[0]).astype(np.float32)
            return
        if operator.name not in self._operators:
            raise UnknownGraph(f"the operator {operator.name} is not known")
        self._names[operator.outputs[0]] = self._operators[operator.name](operator)

    # Tensors.

    def _input(self, tensor: int) -> onnx.ValueInfoProto:
        name, shape = self._graph.name(tensor), self._graph.shape(tensor)
        self._names[tensor] = self._add("Transpose", [name], perm=_TO_NCHW)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _output(self, tensor: int) -> onnx.ValueInfoProto:
        name, shape = self._graph.name(tensor), self._graph.shape(tensor)
        self._nodes.append(helper.make_node("Identity", [self._as_before(tensor)], [name]))
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _as_before(self, tensor: int) -> str:
        """The tensor in TensorFlow's layout."""
        name = self._value(tensor)
        return self._add("Transpose", [name], perm=_TO_NHWC) if len(self._graph.shape(tensor)) == 4 else name

    def _value(self, tensor: int) -> str:
        if tensor not in self._names:
            value = self._constant(tensor)
            self._names[tensor] = self._keep(value.transpose(_TO_NCHW) if value.ndim == 4 else value)
        return self._names[tensor]

    def _constant(self, tensor: int) -> NDArray[Any]:
        value = self._constants.get(tensor)
        value = self._graph.constant(tensor) if value is None else value
        if value is None:
            raise UnknownGraph(f"tensor {self._graph.name(tensor)} should be a constant")
        return value

    def _keep(self, value: Any, dtype: Any = np.float32) -> str:
        """Store a constant; returns its name."""
        name = f"constant_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        name = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _activated(self, name: str, activation: int) -> str:
        if activation == tflite.ActivationFunctionType.NONE:
            return name
        if activation not in _RELUS:
            raise UnknownGraph(f"the activation {activation} is not known")
        limits = [self._keep(0.0), self._keep(6.0)] if _RELUS[activation] == "Clip" else []
        return self._add(_RELUS[activation], [name, *limits])

    # Operators that stand for one of ONNX.

    def _conv(self, op: Operator) -> str:
        weights = self._constant(op.inputs[1]).transpose(0, 3, 1, 2)
        return self._convolve(op, weights, group=1)

    def _depthwise(self, op: Operator) -> str:
        weights = self._constant(op.inputs[1]).transpose(3, 0, 1, 2)
        return self._convolve(op, weights, group=self._graph.shape(op.inputs[0])[3])

    def _convolve(self, op: Operator, weights: NDArray[Any], group: int) -> str:
        strides = (op.options.StrideH(), op.options.StrideW())
        kernel = weights.shape[2:]
        pads = self._pads(op, kernel, strides)
        inputs = [self._value(op.inputs[0]), self._keep(weights), self._keep(self._constant(op.inputs[2]))]
        done = self._add("Conv", inputs, kernel_shape=kernel, strides=strides, pads=pads, group=group)
        return self._activated(done, op.options.FusedActivationFunction())

    def _max_pool(self, op: Operator) -> str:
        kernel = (op.options.FilterHeight(), op.options.FilterWidth())
        strides = (op.options.StrideH(), op.options.StrideW())
        pads = self._pads(op, kernel, strides)
        done = self._add("MaxPool", [self._value(op.inputs[0])], kernel_shape=kernel, strides=strides, pads=pads)
        return self._activated(done, op.options.FusedActivationFunction())

    def _pads(self, op: Operator, kernel: tuple[int, ...], strides: tuple[int, int]) -> list[int]:
        """TensorFlow's SAME: as little as needed, the odd one behind."""
        if op.options.Padding() == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        before, after = self._graph.shape(op.inputs[0])[1:3], self._graph.shape(op.outputs[0])[1:3]
        sums = [max((after[i] - 1) * strides[i] + kernel[i] - before[i], 0) for i in (0, 1)]
        return [sums[0] // 2, sums[1] // 2, sums[0] - sums[0] // 2, sums[1] - sums[1] // 2]

    def _prelu(self, op: Operator) -> str:
        slopes = self._constant(op.inputs[1]).reshape(-1, 1, 1)  # one a channel
        return self._add("PRelu", [self._value(op.inputs[0]), self._keep(slopes)])

    def _binary(self, kind: str, op: Operator) -> str:
        done = self._add(kind, [self._value(op.inputs[0]), self._value(op.inputs[1])])
        return self._activated(done, op.options.FusedActivationFunction() if op.options else 0)

    def _pad(self, op: Operator) -> str:
        pads = self._constant(op.inputs[1])[list(_TO_NCHW)]
        return self._add("Pad", [self._value(op.inputs[0]), self._keep(pads.T.reshape(-1), np.int64)])

    def _reshape(self, op: Operator) -> str:
        shape = self._graph.shape(op.outputs[0])
        done = self._add("Reshape", [self._as_before(op.inputs[0]), self._keep(shape, np.int64)])
        return self._add("Transpose", [done], perm=_TO_NCHW) if len(shape) == 4 else done

    def _concatenate(self, op: Operator) -> str:
        axis = op.options.Axis()
        if len(self._graph.shape(op.outputs[0])) == 4:
            axis = _TO_NCHW.index(axis % 4)
        return self._add("Concat", [self._value(tensor) for tensor in op.inputs], axis=axis)

    def _strided_slice(self, op: Operator) -> str:
        """Begin and end masks say where the slice is open; the other masks do not occur."""
        begin, end, strides = (self._constant(tensor).tolist() for tensor in op.inputs[1:4])
        if op.options.EllipsisMask() or op.options.NewAxisMask() or op.options.ShrinkAxisMask():
            raise UnknownGraph("a STRIDED_SLICE changes the number of axes")
        shape = self._graph.shape(op.inputs[0])
        axes = [_TO_NCHW.index(axis) for axis in range(4)] if len(shape) == 4 else list(range(len(shape)))
        for axis, size in enumerate(shape):
            begin[axis] = 0 if op.options.BeginMask() >> axis & 1 else begin[axis]
            end[axis] = size if op.options.EndMask() >> axis & 1 else end[axis]
        return self._add("Slice", [self._value(op.inputs[0]), *self._ints(begin, end, axes, strides)])

    # Custom operators. A matrix is [1, 4, 4], row by row; it maps points of an output picture to an input picture.

    def _transform_matrix(self, op: Operator) -> str:
        """translate(centre) · rotate(-r) · scale(size · scale / output) · translate(-output / 2).

        r turns the line between two landmarks to the target angle; centre and size are those of the box around the
        subset of landmarks turned by r, the centre turned back.
        """
        about = op.options
        points = self._add("Slice", [self._value(op.inputs[0]), *self._ints([0], [2], [2])])  # x, y
        left, right = (self._rows(points, [about[f"{side}_rotation_idx"]]) for side in ("left", "right"))
        along = self._add("Sub", [right, left])
        length = self._add("ReduceL2", [along], axes=[2], keepdims=1)
        unit = self._add("Div", [along, length])  # cos and sin of the line's angle
        target = float(about["target_rotation_radians"])
        turn = np.array([[np.cos(target), np.sin(target)], [np.sin(target), -np.cos(target)]])
        turned = self._add("MatMul", [unit, self._keep(turn)])  # [1, 1, 2]: cos r, sin r
        cos = self._add("Slice", [turned, *self._ints([0], [1], [2])])
        sin = self._add("Slice", [turned, *self._ints([1], [2], [2])])
        minus = self._add("Neg", [sin])
        forth = self._matrix([[cos, sin], [minus, cos]])  # points are rows: p · forth turns p by r
        back = self._matrix([[cos, minus], [sin, cos]])
        subset = self._add("MatMul", [self._rows(points, list(about["subset_idxs"])), forth])
        low = self._add("ReduceMin", [subset], axes=[1], keepdims=1)
        high = self._add("ReduceMax", [subset], axes=[1], keepdims=1)
        middle = self._add("Mul", [self._add("Add", [low, high]), self._keep(0.5)])
        centre = self._add("MatMul", [middle, back])
        output = np.array([about["output_width"], about["output_height"]], np.float32)
        factors = self._keep(np.array([about["scale_x"], about["scale_y"]]) / output)
        scale = self._add("Mul", [self._add("Sub", [high, low]), factors])  # [1, 1, 2]
        linear = self._add("Mul", [self._add("Transpose", [back], perm=(0, 2, 1)), scale])  # columns scaled
        half = self._keep((output / 2).reshape(1, 2, 1))
        shift = self._add(
            "Sub", [self._add("Transpose", [centre], perm=(0, 2, 1)), self._add("MatMul", [linear, half])]
        )
        return self._homogeneous(linear, shift)

    def _transform_tensor(self, op: Operator) -> str:
        """Output pixel p samples the input at M · (p + 0.5) - 0.5, bilinear, zero outside."""
        height, width = op.options["output_height"], op.options["output_width"]
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        pixels = np.stack([columns, rows], axis=-1).reshape(1, height * width, 2)
        sampled = self._apply(self._value(op.inputs[1]), self._keep(pixels))
        before = self._graph.shape(op.inputs[0])
        norm = self._add("Mul", [sampled, self._keep(np.array([2 / before[2], 2 / before[1]]))])
        grid = self._add("Sub", [norm, self._keep(1.0)])
        shaped = self._add("Reshape", [grid, self._keep([1, height, width, 2], np.int64)])
        image = self._value(op.inputs[0])
        return self._add("GridSample", [image, shaped], align_corners=0, mode="bilinear", padding_mode="zeros")

    def _transform_landmarks(self, op: Operator) -> str:
        """M applied to x, y of each point."""
        return self._apply(self._value(op.inputs[1]), self._value(op.inputs[0]))

    def _apply(self, matrix: str, points: str) -> str:
        linear = self._add("Slice", [matrix, *self._ints([0, 0], [2, 2], [1, 2])])
        shift = self._add("Slice", [matrix, *self._ints([0, 3], [2, 4], [1, 2])])
        moved = self._add("MatMul", [points, self._add("Transpose", [linear], perm=(0, 2, 1))])
        return self._add("Add", [moved, self._add("Transpose", [shift], perm=(0, 2, 1))])

    def _homogeneous(self, linear: str, shift: str) -> str:
        top = self._add("Concat", [linear, self._keep(np.zeros((1, 2, 1))), shift], axis=2)
        bottom = self._keep(np.array([[[0, 0, 1, 0], [0, 0, 0, 1]]]))
        return self._add("Concat", [top, bottom], axis=1)

    def _matrix(self, rows: list[list[str]]) -> str:
        return self._add("Concat", [self._add("Concat", row, axis=2) for row in rows], axis=1)

    def _rows(self, points: str, indices: list[int]) -> str:
        return self._add("Gather", [points, self._keep(indices, np.int64)], axis=1)

    def _ints(self, *values: list[int]) -> list[str]:
        return [self._keep(value, np.int64) for value in values]
