# `ask` comes from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821
"""Runs in a native environment: what torch says of MPS, and whether the Apple GPU computes what the CPU does.

An answer about computing is {"error": RELATIVE} or {"refused": MESSAGE}, null where MPS is not available.
"""

import json
import os
import platform
import subprocess
import sys

# No Metal kernel in most versions, so the variable decides whether it fails or is computed on the CPU.
FALLBACK = """
import torch
matrix = torch.tensor([[4.0, 1.0], [2.0, 3.0]])
q, r = torch.linalg.qr(matrix.to("mps"))
print("QR", float((q.cpu() @ r.cpu() - matrix).abs().max()))
"""


def about():
    import torch

    return {
        "built": torch.backends.mps.is_built(),
        "available": torch.backends.mps.is_available(),
        "macos": platform.mac_ver()[0],
        "virtual": virtual(),
        "shell": json.loads(os.environ.get("BUILDCTL_SHELL", "{}")),
    }


def virtual():
    if sys.platform != "darwin":
        return False
    argv = ["/usr/sbin/sysctl", "-n", "kern.hv_vmm_present"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "1"


def answered(compute):
    import torch

    if not torch.backends.mps.is_available():
        return None
    try:
        return compute(torch)
    except (RuntimeError, TypeError, AssertionError) as error:
        return {"refused": str(error).strip() or repr(error)}


def relative(narrow, wide):
    return {"error": float((narrow.cpu().double() - wide).abs().max() / wide.abs().max())}


def tensor(torch):
    return relative(torch.arange(4, device="mps", dtype=torch.float32) + 1, torch.arange(1, 5, dtype=torch.float64))


def matmul(torch):
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.rand(96, 96, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    return relative(left.float().to("mps") @ right.float().to("mps"), left @ right)


def convolution(torch):
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 20, 20, generator=generator, dtype=torch.float64)
    kernel = torch.rand(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    wide = torch.nn.functional.conv2d(image, kernel, padding=1)
    narrow = torch.nn.functional.conv2d(image.float().to("mps"), kernel.float().to("mps"), padding=1)
    return relative(narrow, wide)


def autograd(torch):
    """Gradient of sum(sin(x) * x), which is known."""
    x = torch.linspace(-2, 2, 64)
    there = x.to("mps").requires_grad_()
    (torch.sin(there) * there).sum().backward()
    wide = x.double()
    return relative(there.grad, torch.cos(wide) * wide + torch.sin(wide))


def fallback(_torch):
    return {name: factored(value) for name, value in (("without", "0"), ("with", "1"))}


def factored(value):
    env = {**os.environ, "PYTORCH_ENABLE_MPS_FALLBACK": value}
    done = subprocess.run([sys.executable, "-c", FALLBACK], capture_output=True, text=True, check=False, env=env)
    line = next((text for text in done.stdout.splitlines() if text.startswith("QR ")), None)
    if line is None:
        return {"refused": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return {"error": float(line[3:])}


if __name__ == "__main__":
    ask("mps", about)
    ask("mps_tensor", lambda: answered(tensor))
    ask("mps_matmul", lambda: answered(matmul))
    ask("mps_convolution", lambda: answered(convolution))
    ask("mps_autograd", lambda: answered(autograd))
    ask("mps_fallback", lambda: answered(fallback))
