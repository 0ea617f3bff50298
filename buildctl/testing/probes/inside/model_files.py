# ruff: noqa: PTH202, PTH118
"""Runs inside the image, in front of torch_report: a model goes into a file and comes back, in every form of torch."""

import os
import tempfile
import warnings


def model():
    import torch

    torch.manual_seed(4)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    return net, torch.linspace(-1, 1, 18).reshape(3, 6)


def compared(path, before, after):
    return {"bytes": os.path.getsize(path), "error": float((before - after).abs().max())}


def saved():
    import torch

    net, x = model()
    path = os.path.join(tempfile.mkdtemp(), "weights.pt")
    torch.save(net.state_dict(), path)
    other = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    other.load_state_dict(torch.load(path, weights_only=True))
    return compared(path, net(x), other(x))


def scripted():
    import torch

    net, x = model()
    path = os.path.join(tempfile.mkdtemp(), "script.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions warn that torch.export is the successor
        torch.jit.save(torch.jit.trace(net, x), path)
        return compared(path, net(x), torch.jit.load(path)(x))


def exported():
    import torch

    net, x = model()
    path = os.path.join(tempfile.mkdtemp(), "export.pt2")
    torch.export.save(torch.export.export(net, (x,)), path)
    return compared(path, net(x), torch.export.load(path).module()(x))
