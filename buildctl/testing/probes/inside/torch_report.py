# What is not here comes from ask.py and the parts that asking.py names, put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821, B905, PLW0108, PTH120, SLF001
"""Runs inside the image: what torch says of itself, and whether it computes. Standard library and torch only."""

import os
import platform
import sys
import tempfile


def about_python():
    return {
        "version": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "executable": sys.executable,
        "uid": os.getuid(),
    }


def about_torch():
    import torch

    said = {name: value for name, value in vars(torch.version).items() if name[0] != "_"}
    texts = {name: value for name, value in said.items() if value is None or isinstance(value, str)}
    return {**texts, "version": torch.__version__, "path": os.path.dirname(torch.__file__)}


def user_name():
    """torch.compile's cache asks for it; without USER and without a line in passwd this raises."""
    import getpass

    return getpass.getuser()


def version_of(name):
    import importlib
    import importlib.util

    if importlib.util.find_spec(name) is None:
        return None
    return str(importlib.import_module(name).__version__)


def backends():
    import torch

    answers = {
        "cuda": lambda: torch.backends.cuda.is_built(),
        "cudnn": lambda: bool(torch._C._has_cudnn),
        "rocm": lambda: getattr(torch.version, "hip", None) is not None,
        "mps": lambda: torch.backends.mps.is_built(),
        "xpu": lambda: torch.xpu._is_compiled(),
        "mkldnn": lambda: torch.backends.mkldnn.is_available(),
        "mkl": lambda: torch.backends.mkl.is_available(),
        "openmp": lambda: torch.backends.openmp.is_available(),
        "nccl": lambda: torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        "gloo": lambda: torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    }
    found = {}
    for name, built in answers.items():
        try:
            found[name] = bool(built())
        except (AttributeError, RuntimeError):  # this torch does not know the backend at all
            found[name] = False
    return found


def gpu_architectures():
    """Compiled in, whether there is a GPU or not: torch.cuda.get_arch_list() is empty without one."""
    import torch

    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    return flags.split() if flags else []


def libraries():
    """Versions as the libraries themselves give them, as numbers; None for what is not in this build."""
    import torch

    cudnn = torch.backends.cudnn.version() if torch._C._has_cudnn else None
    number = getattr(torch._C, "_nccl_version", lambda: None)()
    # cuDNN 9: MAJOR * 10000 + MINOR * 100 + PATCH, before it MAJOR * 1000; NCCL's is packed by torch
    major = 10000 if (cudnn or 0) >= 90000 else 1000
    return {
        "cudnn": [cudnn // major, cudnn % major // 100, cudnn % 100] if cudnn else None,
        "nccl": [number >> 32, number >> 16 & 65535, number & 65535] if number else None,
        "libc": list(platform.libc_ver()),
    }


def devices():
    import torch

    found = {"cpu": {"available": True, "names": [platform.machine()]}}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found["cuda"] = {"available": count > 0, "names": [torch.cuda.get_device_name(n) for n in range(count)]}
    if not count:
        found["cuda"]["problem"] = cuda_problem()
    if count:
        found["cuda"]["capabilities"] = [".".join(map(str, torch.cuda.get_device_capability(n))) for n in range(count)]
    for name in ("mps", "xpu"):
        found[name] = {"available": available(name), "names": []}
    return found


def cuda_problem():
    """Why CUDA does not start, in torch's words; None in a build without it."""
    import torch

    if torch.version.cuda is None:
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return None


def available(name):
    """Older versions have is_available in torch.backends.mps only."""
    import torch

    modules = [getattr(torch.backends, name, None), getattr(torch, name, None)]
    return any(bool(getattr(module, "is_available", lambda: False)()) for module in modules if module)


def appeared():
    """Devices to compute on. What `apart` names is asked by another probe, because it may fail as a whole."""
    import torch

    yield "cpu"
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield f"cuda:{number}"
    for name in ("mps", "xpu"):
        if name not in OPTIONS.get("apart", ()) and available(name):
            yield name


def matmul():
    """Largest error relative to the largest entry, against the same product in float64 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(1)
    left, right = (torch.rand(96, 96, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    exact = plain_product(left.tolist(), right.tolist())
    wide = torch.tensor(exact, dtype=torch.float64)
    errors = {}
    for device in appeared():
        product = (left.float().to(device) @ right.float().to(device)).cpu().double()
        errors[device] = float((product - wide).abs().max() / wide.abs().max())
    return errors


def plain_product(left, right):
    """Without torch, so that a broken library does not check itself."""
    columns = list(zip(*right))
    return [[sum(a * b for a, b in zip(row, column)) for column in columns] for row in left]


def convolution():
    """Largest relative error of a 3x3 convolution on each device against float64 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 20, 20, generator=generator, dtype=torch.float64)
    kernel = torch.rand(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    wide = torch.nn.functional.conv2d(image, kernel, padding=1)
    errors = {}
    for device in appeared():
        narrow = torch.nn.functional.conv2d(image.float().to(device), kernel.float().to(device), padding=1)
        errors[device] = float((narrow.cpu().double() - wide).abs().max() / wide.abs().max())
    return errors


def autograd():
    """Training y = 3x on each device: loss before and after."""
    import torch

    losses = {}
    for device in appeared():
        torch.manual_seed(3)
        model = torch.nn.Linear(1, 1).to(device)
        steps = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.linspace(-1, 1, 32, device=device).unsqueeze(1)
        history = []
        for _ in range(60):
            loss = torch.nn.functional.mse_loss(model(x), 3 * x)
            steps.zero_grad()
            loss.backward()
            steps.step()
            history.append(float(loss))
        losses[device] = [history[0], history[-1]]
    return losses


def without_gpu():
    """What the idiom of every training script picks, and how clear the answer to asking for a GPU anyway is."""
    import torch

    name = "xpu" if backends()["xpu"] else "cuda"  # a ROCm build calls its devices cuda
    there = available("xpu") if name == "xpu" else torch.cuda.is_available()
    picked = str(torch.device(name if there else "cpu"))
    total = float(torch.ones(8, device=picked).sum())
    try:
        torch.ones(1, device=name)
        refusal = None
    except (RuntimeError, AssertionError) as error:
        refusal = str(error).strip().splitlines()[0]
    return {"picked": picked, "sum": total, "refusal": refusal}


def gpus():
    """Of every GPU: its capability, bfloat16 against float64 (from 8.0 on, where it is in the hardware), whether cuDNN
    takes its tensors, and bytes that an allocation held and that stayed after it was given back. Of the first: NCCL.
    """
    import torch

    found = {}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{number}"
        capability = torch.cuda.get_device_capability(number)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(number)
        block = torch.ones(64 << 20, dtype=torch.uint8, device=device)
        held = torch.cuda.memory_allocated(number) - before
        del block
        torch.cuda.empty_cache()
        found[device] = {
            "capability": list(capability),
            "bf16": bfloat16(device) if capability >= (8, 0) else None,
            "cudnn": bool(torch.backends.cudnn.is_acceptable(torch.ones(1, device=device))),
            "held": held,
            "kept": torch.cuda.memory_allocated(number) - before,
        }
    return {"devices": found, "nccl": nccl() if found else None}


def bfloat16(device):
    import torch

    generator = torch.Generator().manual_seed(3)
    left, right = (torch.rand(96, 96, generator=generator).bfloat16() for _ in range(2))
    exact = left.double() @ right.double()
    product = (left.to(device) @ right.to(device)).cpu().double()
    return float((product - exact).abs().max() / exact.abs().max())


def nccl():
    """A group of one process on each GPU needs more processes; that its library starts and reduces is seen by one."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.cuda.set_device(0)
        torch.distributed.init_process_group("nccl", init_method=f"file://{folder}/store", rank=0, world_size=1)
        total = torch.ones(3, device="cuda:0")
        torch.distributed.all_reduce(total)
        torch.distributed.destroy_process_group()
    return float(total.sum())


class Squares:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        import torch

        return torch.tensor([index * index, os.getpid()])

    def __reduce__(self):
        """Where workers are not forked (macOS), they cannot import what was given to `python -c`."""
        return eval, (SQUARES,)


SQUARES = """type("Squares", (), {
    "__len__": lambda self: 8,
    "__getitem__": lambda self, index: __import__("torch").tensor([index * index, __import__("os").getpid()]),
})()"""


def dataloader():
    import torch

    loader = torch.utils.data.DataLoader(Squares(), batch_size=2, num_workers=2, timeout=OPTIONS.get("workers_s", 60))
    rows = torch.cat(list(loader)).tolist()
    return {"squares": [row[0] for row in rows], "workers": len({row[1] for row in rows} - {os.getpid()})}


def main():
    ask("python", about_python)
    ask("user_name", user_name)
    ask("torch", about_torch)
    ask("torchvision", pictures)
    ask("torchaudio", lambda: version_of("torchaudio"))
    ask("backends", backends)
    ask("gpu_architectures", gpu_architectures)
    ask("libraries", libraries)
    ask("devices", devices)
    ask("matmul", matmul)
    ask("convolution", convolution)
    ask("autograd", autograd)
    ask("numpy_bridge", numpy_bridge)
    ask("without_gpu", without_gpu)
    ask("gpus", gpus)
    ask("dataloader", dataloader)
    ask("bytecode", bytecode)
    # last: what imports much more, and runs compiled code on files
    ask("saved", saved)
    ask("scripted", scripted)
    ask("exported", exported)
    ask("helpers", helpers)


if __name__ == "__main__":
    main()
