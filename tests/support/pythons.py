"""A test image with this machine's Python and, where a test wants one, a torch that is not what it should be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from buildctl.oci.image import History, ImageConfig, Platform
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.support.images import Blobs, Member, file, folder, symlink, tar
from tests.support.programs import programs

LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages", "dist-packages", "__pycache__"}
FACTS = """
import json, os, sys, sysconfig
p = sysconfig.get_paths()
print(json.dumps([os.path.realpath(sys.executable), p["stdlib"], p["purelib"], sysconfig.get_config_var("LIBDIR")]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """The interpreter that this one's virtual environment was made from, as paths without the leading slash."""

    program: str
    stdlib: str
    site: str
    libraries: str

    @property
    def version(self) -> str:
        return ".".join(map(str, sys.version_info[:2]))


def base_python() -> Python:
    program = getattr(sys, "_base_executable", sys.executable)
    answer = subprocess.run([program, "-I", "-c", FACTS], capture_output=True, text=True, check=True).stdout
    return Python(**dict(zip(("program", "stdlib", "site", "libraries"), _clean(json.loads(answer)), strict=True)))


def _clean(paths: list[str]) -> list[str]:
    return [path.lstrip("/") for path in paths]


def python_members(python: Python) -> list[Member]:
    """Interpreter, standard library without tests, the shared libraries of both, and a small /etc."""
    files = {python.program: Path("/", python.program)}
    stdlib = Path("/", python.stdlib)
    for path in sorted(stdlib.rglob("*")):
        if path.is_file() and not LEFT_OUT & set(path.relative_to(stdlib).parts):
            files[str(path).lstrip("/")] = path
    for path in [p for p in files.values() if p.suffix == ".so" or p == Path("/", python.program)]:
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        files |= {lib.lstrip("/"): Path(lib) for lib in re.findall(r"(/\S+) \(0x", linked)}
    common = [member for member in programs("true") if member.name != "workspace"]
    there = {member.name for member in common}
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."} - there
    members = [*common, *(folder(name) for name in sorted(folders))]
    members += [file(name, path.read_bytes(), mode=0o755) for name, path in sorted(files.items()) if name not in there]
    writable = [folder("home/user", mode=0o1777), folder("workspace", mode=0o1777)]
    return [*members, symlink("usr/bin/python", f"/{python.program}"), *writable]


def python_config(arch: str | None = None) -> ImageConfig:
    return ImageConfig(
        platform=Platform(architecture=arch or native_arch()),
        user="1000:1000",
        env=(("PATH", "/usr/bin:/bin"), ("FROM_IMAGE", "yes"), ("HOME", "/home/user"), ("USER", "user")),
        entrypoint=("python",),
        cmd=("-c", "print('by default')"),
        working_dir="/workspace",
    )


def put_image(root: Path, *tars: bytes, config: ImageConfig | None = None, name: str = "image") -> ImageRef:
    """An OCI layout at root/dist that holds the image of these layers, lowest first."""
    config = config or python_config()
    layout, blobs = Layout(root / "dist"), Blobs(root / "blobs")
    layers = [blobs.add(data) for data in tars]
    history = tuple(History(created_by=f"layer {n}") for n, _ in enumerate(layers))
    whole = ImageConfig.from_json({**config.to_json(), "history": [h.to_json() for h in history]})
    descriptor = layout.put_image(
        name=name,
        config=ImageConfig.from_json({**whole.to_json(), "rootfs": {"diff_ids": [str(x.diff_id) for x in layers]}}),
        layers=layers,
        blob=blobs.path,
    )
    return ImageRef(
        layout=layout.root,
        descriptor=descriptor,
        name=name,
        arch=config.platform.architecture,
        config=layout.config(descriptor),
    )


TORCH = """
__version__ = {version!r}
class version:
    cuda = {cuda!r}
    hip = None
    git_version = "0" * 40
class _C:
    _has_cudnn = {cuda!r} is not None
    _cuda_getArchFlags = staticmethod(lambda: {flags!r})
class _Backend:
    def __init__(self, built): self.built = built
    def is_built(self): return self.built
    is_available = _is_compiled = device_count = is_built
class backends:
    cuda, mps, mkldnn = _Backend({cuda!r} is not None), _Backend({mps!r}), _Backend(True)
    mkl = openmp = _Backend(False)
xpu = _Backend(False)
cuda = mps = _Backend(False)
class distributed:
    is_available = is_nccl_available = is_gloo_available = staticmethod(lambda: False)
"""


def torch_layer(
    python: Python,
    *,
    version: str = "2.6.0",
    cuda: str | None = None,
    mps: bool = False,
    body: str | None = None,
    metadata: str | None = None,
    more: tuple[Member, ...] = (),
) -> bytes:
    """A package `torch` that only answers for itself; `body` replaces its code, `metadata` its recorded version."""
    flags = "sm_80 sm_90" if cuda else ""
    code = TORCH.format(version=version, cuda=cuda, mps=mps, flags=flags) if body is None else body
    info = f"{python.site}/torch-{metadata or version}.dist-info"
    record = f"Metadata-Version: 2.1\nName: torch\nVersion: {metadata or version}\n\nReadme\n"
    return tar(
        file(f"{python.site}/torch/__init__.py", code.encode()), file(f"{info}/METADATA", record.encode()), *more
    )
