"""Reading a TensorFlow Lite file: its operators in order, with names, options and constants made plain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flatbuffers.flexbuffers as flexbuffers
import numpy as np
import tflite
from numpy.typing import NDArray

_OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
_DTYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
_OPTIONS = {
    "CONV_2D": tflite.Conv2DOptions,
    "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
    "MAX_POOL_2D": tflite.Pool2DOptions,
    "ADD": tflite.AddOptions,
    "MUL": tflite.MulOptions,
    "CONCATENATION": tflite.ConcatenationOptions,
    "STRIDED_SLICE": tflite.StridedSliceOptions,
}


class UnknownGraph(ValueError):
    """The file has something that the converter does not know."""


@dataclass(frozen=True)
class Operator:
    """One step: what it is called, the tensors it reads and writes (by number), and its options."""

    name: str
    inputs: list[int]
    outputs: list[int]
    options: Any  # the schema's options table, or a dict for a custom operator


class Graph:
    """The first subgraph of a model. Raises UnknownGraph for what the schema allows and this reader does not."""

    def __init__(self, data: bytes) -> None:
        self._model = tflite.Model.GetRootAsModel(data, 0)
        self._graph = self._model.Subgraphs(0)
        self.inputs: list[int] = self._graph.InputsAsNumpy().tolist()
        self.outputs: list[int] = self._graph.OutputsAsNumpy().tolist()

    def name(self, tensor: int) -> str:
        return str(self._graph.Tensors(tensor).Name().decode())

    def shape(self, tensor: int) -> list[int]:
        found = self._graph.Tensors(tensor)
        return [found.Shape(axis) for axis in range(found.ShapeLength())]

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The value of a constant tensor, or None for one that is computed."""
        found = self._graph.Tensors(tensor)
        buffer = self._model.Buffers(found.Buffer())
        if not buffer.DataLength():
            return None
        if found.Type() not in _DTYPES:
            raise UnknownGraph(f"tensor {self.name(tensor)} is of the type {found.Type()}")
        return np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[found.Type()]).reshape(self.shape(tensor))

    def operators(self) -> Iterator[Operator]:
        for number in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(number)
            code = self._model.OperatorCodes(operator.OpcodeIndex())
            name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            options: Any = None
            if name == "CUSTOM":
                name = code.CustomCode().decode()
                if operator.CustomOptionsLength():
                    options = flexbuffers.Loads(operator.CustomOptionsAsNumpy().tobytes())
            elif name in _OPTIONS and operator.BuiltinOptions():
                options = _OPTIONS[name]()
                options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            yield Operator(name, operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist(), options)
