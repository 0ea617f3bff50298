# `ask` comes from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821, PTH118
"""Runs inside the image: models that other images exported, given on stdin, each with its inputs: what they compute."""

import base64
import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
import zlib


def inputs_of(given):
    import numpy as np

    return np.array(given["inputs"], dtype="float32").reshape(given["shape"])


def torchscript(data, x):
    import torch

    with torch.no_grad():
        return torch.jit.load(io.BytesIO(data), map_location="cpu")(torch.from_numpy(x)).numpy()


def export(data, x):
    import torch

    with torch.no_grad():
        return torch.export.load(io.BytesIO(data)).module()(torch.from_numpy(x)).numpy()


def onnx(data, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def coreml(data, x):
    import coremltools

    path = os.path.join(tempfile.mkdtemp(), "model.mlpackage")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(path)
    units = coremltools.ComputeUnit.CPU_ONLY  # the other units compute in 16 bits
    return next(iter(coremltools.models.MLModel(path, compute_units=units).predict({"x": x}).values()))


FORMATS = {"torchscript": torchscript, "export": export, "onnx": onnx, "coreml": coreml}


def computed(given):
    y = FORMATS[given["format"]](zlib.decompress(base64.b64decode(given["file"])), inputs_of(given))
    return [float(value) for value in y.astype("float64").flatten()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, given in json.load(sys.stdin).items():
        ask(name, lambda given=given: computed(given))
