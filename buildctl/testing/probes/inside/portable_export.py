# `ask` and `OPTIONS` come from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821, PTH118, PTH123
"""Runs inside the image: one small network as a file in every format asked for, with inputs and what it makes of them.

A file is answered as base64 of its zlib-compressed bytes, so that it leaves through stdout: no mount, no copy.
"""

import base64
import io
import os
import tempfile
import warnings
import zipfile
import zlib


def network():
    """A convolution, attention over its pixels, and a linear layer: what models are made of, in 700 weights."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.query, self.key, self.value = (torch.nn.Linear(8, 8) for _ in range(3))
            self.norm = torch.nn.LayerNorm(8)
            self.out = torch.nn.Linear(8, 5)

        def forward(self, x):
            x = torch.nn.functional.avg_pool2d(torch.relu(self.convolution(x)), 2).flatten(2).transpose(1, 2)
            weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 8**0.5, dim=-1)
            return self.out(self.norm(x + weights @ self.value(x)).mean(dim=1))

    torch.manual_seed(20)
    net = Net().eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(21)) * 2 - 1


def packed(data):
    return base64.b64encode(zlib.compress(data, 9)).decode()


def sample():
    import torch

    net, x = network()
    with torch.no_grad():
        y = net(x)
    return {"inputs": x.flatten().tolist(), "shape": list(x.shape), "outputs": y.double().flatten().tolist()}


def torchscript():
    import torch

    net, x = network()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x), buffer)
    return packed(buffer.getvalue())


def export():
    import torch

    net, x = network()
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (x,)), buffer)
    return packed(buffer.getvalue())


def onnx():
    import torch

    net, x = network()
    path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    torch.onnx.export(net, (x,), path, input_names=["x"], dynamo=True, external_data=False)
    with open(path, "rb") as file:
        return packed(file.read())


def coreml():
    import coremltools
    import torch

    net, x = network()
    path = os.path.join(tempfile.mkdtemp(), "model.mlpackage")
    coremltools.convert(
        torch.jit.trace(net, x),
        inputs=[coremltools.TensorType(name="x", shape=tuple(x.shape))],
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.macOS14,
    ).save(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder, _, files in os.walk(path):
            for name in files:
                full = os.path.join(folder, name)
                archive.write(full, os.path.relpath(full, path))
    return packed(buffer.getvalue())


FORMATS = {"torchscript": torchscript, "export": export, "onnx": onnx, "coreml": coreml}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # newer versions warn that TorchScript has a successor
    ask("sample", sample)
    for name in OPTIONS["formats"]:
        ask(name, FORMATS[name])
