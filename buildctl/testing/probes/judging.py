"""Comparing what an image answered with what its cell declares: one function per finding; each names both values.

A judge returns its status and what was seen. It raises KeyError, TypeError and the like for an answer of the wrong
shape, which the caller turns into FAILED: an image must not pass by answering nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packaging.version import InvalidVersion, Version

from buildctl.lock.claims import runs_on
from buildctl.matrix.accelerators import CUDA, VERSIONED, short_version, versions_in
from buildctl.matrix.arch import ARCHES
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Status

Verdict = tuple[Status, str]
Judge = Callable[[Expected, Any], Verdict]
# float32 against float64 on the sizes asked for; TF32 in convolutions on GPUs is worth 1e-3
TOLERANCE = 5e-3
# where Debian packages put distributions; wheels go below /usr/local
DEBIANS_OWN = "/usr/lib/python3/dist-packages"


def passed(text: str) -> Verdict:
    return Status.PASSED, text


def failed(text: str) -> Verdict:
    return Status.FAILED, text


def differs(what: str, expected: object, reported: object) -> Verdict:
    return failed(f"expected {what} {expected}, image reports {reported}")


def platform(expected: Expected, value: Any) -> Verdict:
    known = ARCHES.get(expected.arch)
    machine = known.uname(expected.system) if known else expected.arch
    if (value["system"], value["machine"], value["bits"]) != (expected.system, machine, 64):
        return differs("platform", f"{expected.system} {machine}", f"{value['system']} {value['machine']}")
    return passed(f"{expected.system} {machine}")


def python(expected: Expected, value: Any) -> Verdict:
    if ".".join(value["version"].split(".")[:2]) != expected.python:
        return differs("Python", expected.python, value["version"])
    return passed(f"Python {value['version']} at {value['executable']}")


def torch(expected: Expected, value: Any) -> Verdict:
    if not same_version(expected.torch, value["version"]):
        return differs("torch", expected.torch, value["version"])
    return passed(f"torch {value['version']}")


def torchvision(expected: Expected, value: Any) -> Verdict:
    """Its version, and that it and pillow, which it does not bound, understand each other."""
    verdict = _companion("torchvision", expected.torchvision, value and value["version"])
    if value is None or verdict[0] is not Status.PASSED:
        return verdict
    if value["wrong"] or not value["tried"]:
        some = "".join(f"\n  {line}" for line in value["wrong"][:5])
        return failed(
            f"pillow {value['pillow']} and torchvision: {len(value['wrong'])} of {value['tried']} failed{some}"
        )
    return passed(f"torchvision {value['version']}, {value['tried']} exchanges with pillow {value['pillow']}")


def torchaudio(expected: Expected, value: Any) -> Verdict:
    return _companion("torchaudio", expected.torchaudio, value)


def _companion(name: str, wanted: str | None, reported: Any) -> Verdict:
    if wanted is None and reported is None:
        return passed(f"no {name}, as declared")
    if wanted is None or reported is None or not same_version(wanted, str(reported)):
        return differs(name, wanted or "to be absent", reported or "none")
    return passed(f"{name} {reported}")


def same_version(wanted: str, reported: str) -> bool:
    """A locked `2.6.0` matches a reported `2.6.0+cu124`; a locked local version must match exactly."""
    try:
        want, have = Version(wanted), Version(reported)
    except InvalidVersion:
        return False
    return want == have if want.local else Version(want.public) == Version(have.public)


def cuda_version(expected: Expected, value: Any) -> Verdict:
    """Of all kinds at once: torch is built for one of them at most."""
    said = versions_in(value)
    found = next((kind for kind in VERSIONED if kind.name in said), None)
    version, wanted = said[found.name] if found else None, expected.built_for
    if found != (expected.kind if wanted else None):
        other = f"{found.build} ({version})" if found else "none (a CPU build)"
        return differs(expected.kind.label, wanted or "only", other)
    if version is not None and short_version(version) != wanted:
        return differs(expected.kind.label, wanted, version)
    return passed(f"built for {expected.kind.titled(wanted)}" if wanted else "built without CUDA")


def backends(expected: Expected, value: Mapping[str, Any]) -> Verdict:
    missing = [name for name in expected.built if not value.get(name)]
    extra = [name for name in expected.never if value.get(name)]
    have = ", ".join(sorted(name for name, built in value.items() if built))
    if missing:
        return failed(f"expected {', '.join(missing)} to be built in, image reports: {have or 'nothing'}")
    if extra:
        return failed(f"expected no {', '.join(extra)} in this build, image reports: {have}")
    return passed(have)


def torch_build(expected: Expected, value: Any) -> Verdict:
    """Including the local part of the version: `2.6.0+cu124`."""
    if not expected.build or value["version"] != expected.build:
        return differs("the build", expected.build, value["version"])
    return passed(value["version"])


def cudnn_version(expected: Expected, value: Any) -> Verdict:
    return _library_version("cuDNN", expected.cudnn, value["cudnn"])


def nccl_version(expected: Expected, value: Any) -> Verdict:
    return _library_version("NCCL", expected.nccl, value["nccl"])


def _library_version(name: str, wanted: str | None, reported: list[int] | None) -> Verdict:
    """Three numbers; the wheels' versions may have a fourth."""
    have = ".".join(map(str, reported)) if reported else None
    want = ".".join(map(str, Version(wanted).release[:3])) if wanted else None
    if have != want:
        return differs(name, want or "to be absent", have or "none")
    return passed(f"{name} {have}" if have else f"no {name}, as declared")


def glibc(expected: Expected, value: Any) -> Verdict:
    """What the wheels need against what the base has."""
    name, have = value["libc"]
    if name != "glibc" or expected.glibc is None or Version(have) < Version(expected.glibc):
        return differs("glibc", f"{expected.glibc} or newer", f"{name} {have}".strip() or "none")
    return passed(f"glibc {have}, the wheels need {expected.glibc}")


def labels(expected: Expected, found: Mapping[str, str]) -> Verdict:
    """The claims in the image's labels against the reviewed ones. Reads the configuration, runs nothing."""
    wrong = [
        f"{name}: expected {expected.labels.get(name, 'no such claim')}, the label has {found[name]}"
        for name in sorted(found)
        if found[name] != expected.labels.get(name)
    ]
    if wrong:
        return failed("labels differ from the claims" + "".join(f"\n  {line}" for line in wrong))
    if missing := sorted(expected.labels.keys() - found.keys()):
        return Status.NOT_RUN, f"built before these claims: {', '.join(missing)}; render and build it again"
    return passed(f"{len(found)} claims in labels")


def libraries(_: Expected, value: Any) -> Verdict:
    if not value["count"]:
        return failed("expected libraries of torch, image has none")
    if value["missing_count"]:
        return failed("libraries with missing dependencies" + "".join(f"\n  {m}" for m in value["missing"]))
    driver = f"; of the driver: {', '.join(value['driver'])}" if value["driver"] else ""
    return passed(f"{value['count']} libraries find all their dependencies{driver}")


def saved(_: Expected, value: Any) -> Verdict:
    return _same("torch.save and torch.load", value)


def scripted(_: Expected, value: Any) -> Verdict:
    return _same("TorchScript", value)


def exported(_: Expected, value: Any) -> Verdict:
    return _same("torch.export", value)


def _same(what: str, value: Any) -> Verdict:
    if not value["error"] <= 1e-6:
        return failed(f"{what}: expected the same numbers after a file, image computes an error of {value['error']}")
    return passed(f"{what}: {value['bytes']} bytes, same numbers")


def two_processes(_: Expected, value: Any) -> Verdict:
    """DDP gives every process the mean of the gradients: of x = 1 and x = 2, and of what was summed over both."""
    ranks = value["ranks"]
    if len(ranks) != 2 or any(r["world"] != 2 or r["sum"] != 3.0 for r in ranks):
        return differs("two processes that sum to", 3.0, ranks)
    if any(abs(r["gradient"] - 1.5) > 1e-6 for r in ranks):
        return differs("both gradients to be", 1.5, [r["gradient"] for r in ranks])
    return passed(f"DDP over {value['backend']}: two processes, one gradient")


def gpu_architectures(expected: Expected, value: list[str]) -> Verdict:
    if not isinstance(value, list):
        raise TypeError(value)
    if not expected.kind.architectures:
        return failed(f"expected none, image reports {' '.join(value)}") if value else passed("none, as declared")
    claimed = expected.gpu_architectures
    if claimed is not None and sorted(claimed) != sorted(value):
        return differs("GPU architectures", " ".join(sorted(claimed)), " ".join(value) or "none")
    return passed(" ".join(value)) if value else failed("a CUDA build without any GPU architecture")


def devices(expected: Expected, value: Mapping[str, Any]) -> Verdict:
    """A device may appear only if its backend is declared; this finding does not require one."""
    appeared = [name for name, device in value.items() if device["available"]]
    allowed = {"cpu", *expected.built, *filter(None, [expected.kind.device])}
    if "cpu" not in appeared:
        return failed("expected the device cpu, image reports none")
    if wrong := [name for name in appeared if name not in allowed]:
        return failed(f"expected no device {', '.join(wrong)}, image reports it as available")
    names = [f"{name} ({', '.join(found)})" if (found := value[name]["names"]) else name for name in appeared]
    absent = [name for name in value if name not in appeared]
    return passed(f"{', '.join(names)}; absent: {', '.join(absent)}")


def without_gpu(expected: Expected, value: Any) -> Verdict:
    if value["picked"] != "cpu" or value["sum"] != 8.0:
        return differs("the fallback to compute", "on cpu 8.0", f"on {value['picked']} {value['sum']}")
    if value["refusal"] is None:
        return failed(f"expected an error for device={expected.kind.device!r} without a GPU, image made a tensor")
    return passed(f"built for {expected.kind.titled(expected.built_for)}, no device, runs on the cpu")


def _errors(value: Mapping[str, float], device: str) -> Verdict:
    error = value[device]
    if not error <= TOLERANCE:  # also when it is not a number
        return failed(f"on {device}: expected an error of at most {TOLERANCE:g}, image computes {error:.3g}")
    return passed(f"relative error {error:.1e} against float64")


def matmul_cpu(_: Expected, value: Any) -> Verdict:
    return _errors(value, "cpu")


def convolution_cpu(_: Expected, value: Any) -> Verdict:
    return _errors(value, "cpu")


def autograd_cpu(_: Expected, value: Any) -> Verdict:
    return _training(value, "cpu")


def _training(value: Any, device: str) -> Verdict:
    before, after = value[device]
    if not after < before / 10:
        return failed(f"on {device}: expected the loss to fall, image trains {before:.3g} -> {after:.3g}")
    return passed(f"loss {before:.2g} -> {after:.1e}")


def gpu(expected: Expected, value: Any) -> Verdict:
    """`value` holds the answers to devices, matmul, convolution, autograd, gpu_architectures and gpus."""
    kind = expected.kind
    found = [name for name in value["matmul"] if name.partition(":")[0] == kind.device]
    if not found:
        why = value["devices"].get(kind.device, {}).get("problem")
        seen = f"expected the host's GPU to appear, image reports no device {kind.device}"
        return failed(seen + (f"\n  {why}" if why else ""))
    for device in found:
        for verdict in (
            _errors(value["matmul"], device),
            _errors(value["convolution"], device),
            _training(value["autograd"], device),
        ):
            if verdict[0] is not Status.PASSED:
                return verdict
    names = ", ".join(value["devices"][kind.device]["names"]) or f"{len(found)} devices {kind.device}"
    computes = f"computes on {names}, relative error {max(value['matmul'][d] for d in found):.1e}"
    return _memory_and_nccl(expected, value, found, computes) if kind.bundled else passed(computes)


def _memory_and_nccl(expected: Expected, value: Any, found: Sequence[str], computes: str) -> Verdict:
    for device in found:
        architectures = value["gpu_architectures"] if expected.kind.architectures else None
        verdict = _gpu(value["gpus"]["devices"][device], architectures, device)
        if verdict[0] is not Status.PASSED:
            return verdict
    if value["gpus"]["nccl"] != 3.0:
        return differs("NCCL's sum over one process", 3.0, value["gpus"]["nccl"])
    return passed(f"{computes}; NCCL starts, memory is released")


BFLOAT16 = 1e-2  # its mantissa has 8 bits


def _gpu(value: Mapping[str, Any], architectures: Sequence[str] | None, device: str) -> Verdict:
    """`architectures` is None if they are not NVIDIA's and so cannot be compared with a capability."""
    capability = tuple(value["capability"])
    if architectures is not None and not runs_on(architectures, capability):
        own = f"sm_{capability[0]}{capability[1]}"
        return failed(f"on {device}: expected kernels for {own}, image has {' '.join(architectures)}")
    if value["bf16"] is not None and not value["bf16"] <= BFLOAT16:
        return failed(f"on {device}: expected bfloat16 within {BFLOAT16:g}, image computes {value['bf16']:.3g}")
    if not value["cudnn"]:
        return failed(f"on {device}: expected cuDNN to accept its tensors, image refuses")
    if value["held"] <= 0 or value["kept"] != 0:
        return failed(f"on {device}: {value['kept']} of {value['held']} allocated bytes were not released")
    return passed("")


def numpy_bridge(_: Expected, value: Any) -> Verdict:
    """Scalars and arrays of every type, both ways; a numpy too new for its torch fails in some of them only."""
    if value["wrong"]:
        some = "".join(f"\n  {line}" for line in value["wrong"][:5])
        return failed(
            f"numpy {value['numpy']} and torch: {len(value['wrong'])} of {value['tried']} exchanges failed{some}"
        )
    if not value["tried"]:
        return failed("expected numpy and torch to have types in common, image tried none")
    return passed(
        f"numpy {value['numpy']}: {value['types']} types as scalars, arrays and DLPack, {value['tried']} exchanges"
    )


def dataloader(_: Expected, value: Any) -> Verdict:
    if sorted(value["squares"]) != [n * n for n in range(8)] or value["workers"] != 2:
        return differs("2 workers and squares", [n * n for n in range(8)], f"{value['workers']}, {value['squares']}")
    return passed("2 worker processes")


def bytecode(_: Expected, value: Any) -> Verdict:
    if value["bad_count"]:
        some = "".join(f"\n  {line}" for line in value["bad"][:5])
        return failed(
            f"expected bytecode for every module, {value['bad_count']} of those loaded have no matching bytecode{some}"
        )
    return passed(f"{value['good']} modules loaded from bytecode, none compiled at import")


def no_cuda(_: Expected, value: Any) -> Verdict:
    """`value` holds the answers to nvidia and distributions."""
    found, count = value["nvidia"]["libraries"], value["nvidia"]["library_count"]
    packages = [name for name, *_rest in value["distributions"] if CUDA.vendor and CUDA.vendor.fullmatch(name)]
    if packages:
        return failed(f"expected no distribution of CUDA libraries, image has {', '.join(packages)}")
    if count:
        return failed(f"expected no CUDA library, image has {count}: {', '.join(found[:3])}")
    if value["nvidia"]["variables"]:
        return failed(f"expected no NVIDIA environment, image sets {', '.join(value['nvidia']['variables'])}")
    return passed("no distribution of CUDA libraries, no CUDA library, no NVIDIA environment")


def nvidia_environment(_: Expected, value: Any) -> Verdict:
    wanted = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA"}
    if missing := sorted(wanted - set(value["variables"])):
        return failed(f"expected {', '.join(missing)} in the environment, image sets none")
    if not value["library_count"]:
        return failed("expected CUDA libraries, image has none")
    return passed(f"{value['library_count']} CUDA libraries, {', '.join(sorted(wanted))} set")


def locale(_: Expected, value: Any) -> Verdict:
    seen = [value[key].upper().replace("-", "") for key in ("codeset", "files", "stdout")]
    declared = value["environment"].upper().replace("-", "").endswith("UTF8")
    if not declared or set(seen) != {"UTF8"}:
        return differs("UTF-8", "from LANG or LC_ALL", f"{value['environment'] or 'no LANG'} ({', '.join(seen)})")
    return passed(value["environment"])


def certificates(_: Expected, value: Any) -> Verdict:
    count = max(value["loaded"], value["hashed"])
    return passed(f"{count} certificates") if count > 20 else failed(f"expected a CA bundle, image loads {count}")


def writable(_: Expected, value: Any) -> Verdict:
    if value["problems"]:
        return failed(f"expected uid {value['uid']} to write to {'; '.join(value['problems'])}")
    return passed(f"uid {value['uid']} writes to {', '.join(value['modes'])}")


def any_uid(_: Expected, value: Any) -> Verdict:
    """`value` holds the answers to python, torch and user_name. getpass, and with it torch.compile, needs USER."""
    if value["python"]["uid"] != 12345:
        return differs("uid", 12345, value["python"]["uid"])
    return passed(f"uid 12345 imports torch with a read-only root and its user name is {value['user_name']!r}")


def compiled(_: Expected, value: Any) -> Verdict:
    """`value` holds the answers to compiler and compiled."""
    if not value["compiler"]:
        return failed("expected g++ in the devel flavour, image has none on PATH")
    result = value["compiled"]
    if not (result["error"] <= 1e-4 and result["graphs"] >= 1):
        return failed(f"expected one compiled graph, image compiled {result['graphs']}, error {result['error']}")
    return passed(f"compiled with {value['compiler']}, same result")
