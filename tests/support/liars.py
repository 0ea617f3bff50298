"""Images that do not tell the truth about themselves: each answers what a good one would answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from buildctl.oci.image import ImageConfig
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.support.images import Member, file, symlink, tar
from tests.support.programs import programs
from tests.support.pythons import Python, base_python, put_image, python_config, python_members, torch_layer

VERSION = "2.6.0"
SAYS = "__version__ = {version!r}\ncuda: str | None = None\n"


def answers() -> str:
    """What the probes of a good image print, for the questions that the tests look at, on one line."""
    python = {"version": "3.13.5", "machine": {"amd64": "x86_64", "arm64": "aarch64"}[native_arch()]}
    values = {
        "python": {**python, "system": "Linux", "bits": 64, "executable": "/usr/bin/python", "uid": 12345},
        "torch": {"version": VERSION, "cuda": None, "path": "/usr/lib/python3.13/site-packages/torch"},
        "gpu_architectures": [],
        "distributions": [["torch", VERSION, "/usr/lib/python3.13/site-packages"]],
    }
    told = {name: {"value": value, "error": None, "seconds": 0.1} for name, value in values.items()}
    return json.dumps({"doing": None, "answers": told})


def script(*after: str) -> Member:
    """A `python` of a shell's own commands, which prints what a good one would."""
    lines = ["#!/bin/sh", "while read -r line; do printf '%s\\n' \"$line\"; done < /answers", *after, ""]
    return file("usr/bin/python", "\n".join(lines).encode(), mode=0o755)


def _said(version: str = VERSION, *more: Member) -> bytes:
    """A torch that answers VERSION, over files that say `version`."""
    host = base_python()
    text = SAYS.format(version=version).encode()
    return torch_layer(host, version=VERSION, more=(file(f"{host.site}/torch/version.py", text), *more))


def _shell(*after: str) -> list[bytes]:
    return [tar(*programs("sh"), file("answers", answers().encode() + b"\n"), script(*after))]


def _real(*layers: bytes) -> list[bytes]:
    return [tar(*python_members(base_python())), *layers]


def _site(text: str) -> Member:
    host: Python = base_python()
    return file(f"{host.site}/sitecustomize.py", text.encode())


OTHER_LIST = """
import importlib.metadata as m
class More(m.PathDistribution):
    def read_text(self, name):
        return "Name: vllm\\nVersion: 0.9.0\\n\\n"
real = m.distributions
m.distributions = lambda **how: [*real(**how), More(next(iter(real(**how)))._path.parent / "vllm-0.9.0.dist-info")]
"""
EARLY = f"import os\nprint({answers()!r}, flush=True)\nos.kill(os.getpid(), 9)\n"
OTHER_NAME = "import sys\nsys.executable = '/opt/conda/bin/python'\n"
# name -> layers
LIARS: Mapping[str, Callable[[], list[bytes]]] = {
    "an honest one": lambda: _real(_said()),
    "a script": lambda: _shell("exit 0"),
    "a script that dies": lambda: _shell("kill -9 $$"),
    "another program": lambda: [tar(*programs("true"), symlink("usr/bin/python", "true"))],
    "another torch": lambda: _real(_said("2.5.1")),
    "another list": lambda: _real(_said(VERSION, _site(OTHER_LIST))),
    "another name": lambda: _real(_said(VERSION, _site(OTHER_NAME))),
    "an early end": lambda: _real(_said(VERSION, _site(EARLY))),
}


def liar(name: str, root: Path, *, torch: str = VERSION) -> ImageRef:
    """Claims `torch` in its environment."""
    config: ImageConfig = python_config()
    config = replace(config, env=(*config.env, ("PYTORCH_VERSION", torch)))
    return put_image(root, *LIARS[name](), config=config)
