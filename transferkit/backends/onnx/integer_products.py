"""Whether the CPU adds products of 8-bit integers without overflow."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["are_sums_exact"]

_COLUMNS = 32
_OPSET = 17
_IR_VERSION = 8


@cache
def are_sums_exact() -> bool:
    """Return whether ONNX Runtime's fastest instructions for 8-bit integers are exact.

    They are with VNNI. Other x86 CPUs add pairs of products of an unsigned and a signed integer in
    16 bits, which overflows for the largest ones, as they are multiplied here.

    Examples
    --------
    >>> from transferkit.backends.onnx.integer_products import are_sums_exact
    >>> are_sums_exact() in (True, False)
    True
    """
    weights = np.full((_COLUMNS, _COLUMNS), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weights"], ["y"])],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, _COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None, _COLUMNS])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.full((_COLUMNS, _COLUMNS), 255, np.uint8)
    (y,) = session.run(None, {"x": x})
    return bool((y == 255 * 127 * _COLUMNS).all())
