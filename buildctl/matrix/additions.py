"""`images` and `extras` of matrix.yaml: what some images get on top of what all have."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from buildctl.ground.errors import did_you_mean
from buildctl.matrix import yamlfile
from buildctl.matrix.cells import Accelerator, DebianBase, Os, Own, PackageRule
from buildctl.matrix.own_files import requirements_of

# An extra is a group of packages by name, and the findings that `buildctl test` has for it.
# onnx: what torch.onnx.export needs, and ONNX Runtime to run the result. On Linux that wheel runs on the CPU, also in a
# cuda image: the CUDA provider is another distribution (onnxruntime-gpu) with the same module.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    # converts everywhere it has a wheel (not linux/arm64), predicts on macOS only
    "coreml": ("coremltools>=9",),
}
# distributions that own the same files as one of an extra
RIVALS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition(Own):
    """One entry under `images`, or (with the pattern `*`) the top level's `extras`; `key` is its key path."""

    key: str
    pattern: str
    packages: tuple[PackageRule, ...] = ()

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added(Own):
    """All that the additions give one image name, each once; of `user`, `env` and `labels` the last in the file."""

    requirements: tuple[str, ...] = ()


def added_to(name: str, torch: Version, accelerator: Accelerator, additions: Iterable[Addition]) -> Added:
    """All matches add up, in the order of the file. A native environment gets packages and extras only."""
    found = [addition for addition in additions if addition.matches(name)]
    extras = tuple(dict.fromkeys(extra for addition in found for extra in addition.extras))
    own = [rule.requirement(torch) for addition in found for rule in addition.packages]
    texts = [*(package for extra in extras for package in EXTRAS[extra]), *(text for text in own if text)]
    if accelerator.os is not Os.LINUX:
        return Added(requirements=tuple(dict.fromkeys(texts)), extras=tuple(sorted(extras)))
    wheels = tuple(dict.fromkeys(wheel for addition in found for wheel in addition.wheels))
    return Added(
        requirements=tuple(dict.fromkeys((*texts, *requirements_of(wheels)))),
        apt=tuple(sorted({package for addition in found for package in addition.apt})),
        extras=tuple(sorted(extras)),
        wheels=wheels,
        files=tuple(dict.fromkeys(pair for addition in found for pair in addition.files)),
        user=next((addition.user for addition in reversed(found) if addition.user), None),
        env=tuple(dict(pair for addition in found for pair in addition.env).items()),
        labels=tuple(dict(pair for addition in found for pair in addition.labels).items()),
    )


def keys_of(additions: Iterable[Addition], name: str, *what: str) -> tuple[str, ...]:
    """Where in matrix.yaml an image name's `packages`, `apt` or `extras` come from, besides top-level packages."""
    found = [(addition, key) for addition in additions if addition.matches(name) for key in what]
    return tuple(
        addition.key if addition.key == key else f"{addition.key}.{key}"
        for addition, key in found
        if getattr(addition, key)
    )


def check_additions(
    document: yamlfile.YamlDocument, additions: Sequence[Addition], names: Mapping[str, Accelerator]
) -> None:
    """Record problems beyond a schema. `names` are the names of all cells (without flavour) with their accelerators."""
    for addition in additions:
        path = ("images", addition.pattern)
        found = {name: accelerator for name, accelerator in names.items() if addition.matches(name)}
        if not found:
            near = did_you_mean(addition.pattern, names)
            stem = addition.pattern.removesuffix("-devel")
            if stem != addition.pattern and any(fnmatch.fnmatchcase(name, stem) for name in names):
                near = f" (both flavours get it: write {stem!r})"
            document.problem(path, f"no image matches{near or ' (names: ' + ', '.join(names) + ')'}")
        if addition.apt:
            _check_bases(document, (*path, "apt"), found)
        for key in ("wheels", "files", "user", "env", "labels"):
            if getattr(addition, key) and found and all(a.os is not Os.LINUX for a in found.values()):
                document.problem(
                    (*path, key), f"{', '.join(found)}: a native environment is no image, and has no {key}"
                )
    for name in names:
        _check_rivals(document, name, [addition for addition in additions if addition.matches(name)])


def _check_bases(document: yamlfile.YamlDocument, path: yamlfile.Path, found: Mapping[str, Accelerator]) -> None:
    images = {name: accelerator for name, accelerator in found.items() if accelerator.os is Os.LINUX}
    if found and not images:
        document.problem(path, f"{', '.join(found)}: a native environment has no Debian packages")
    for name, accelerator in images.items():
        if accelerator.base is not None and not isinstance(accelerator.base, DebianBase):
            document.problem(
                path,
                f"{name} has the base image bases.{accelerator.base.name}, to which apt packages cannot be added "
                "(a template with RUN apt-get install and --engine docker, or a base of Debian packages)",
            )


def _check_rivals(document: yamlfile.YamlDocument, name: str, additions: Sequence[Addition]) -> None:
    rivals = {rival: extra for a in additions for extra in a.extras for rival in RIVALS.get(extra, ())}
    for addition in additions:
        for rule in addition.packages:
            if extra := rivals.get(rule.name):
                document.problem(
                    ("images", addition.pattern, "packages"),
                    f"{rule.name} owns the same files as a package of the extra {extra!r}, which {name} also gets",
                )
