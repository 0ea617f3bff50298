# `ask` comes from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821
"""Runs inside the image: ONNX Runtime, what it can run on, and a small model made here and run by it."""

import os


def onnx_runtime():
    import onnxruntime

    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY") != "1",
    }


def onnx_model():
    """x @ w + b, against numpy."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    bias = np.array([0.5, -0.5, 0.25], dtype=np.float32)
    x = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x})
    error = float(abs(result - (x @ weight + bias)).max())
    return {"onnx": onnx.__version__, "used": session.get_providers(), "error": error}


if __name__ == "__main__":
    ask("onnx_runtime", onnx_runtime)
    ask("onnx_model", onnx_model)
