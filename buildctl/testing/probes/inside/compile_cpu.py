# `ask` comes from ask.py, which is put in front.
# ruff: noqa: F821
"""Runs inside the image: torch.compile on the CPU, which calls the image's C++ compiler."""

import shutil


def compiled():
    import torch

    def plain(x):
        return torch.relu(x * 2 + 1).sum(dim=1)

    x = torch.linspace(-2, 2, 64).reshape(8, 8)
    error = (torch.compile(plain)(x) - plain(x)).abs().max()
    # inductor falls back silently in some set-ups; its counter says whether code was generated
    from torch._dynamo.utils import counters

    return {"error": float(error), "graphs": int(counters["stats"]["unique_graphs"])}


ask("compiler", lambda: shutil.which("g++"))
ask("compiled", compiled)
