"""`buildctl export`: images into one file or folder, which appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.console.progress import open_progress
from buildctl.console.table import size
from buildctl.ground.errors import LayoutError, UsageError, WriteError
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import sync_directory, translated
from buildctl.oci.trees.unpack import unpack_image, workplace
from buildctl.publish.export.archives import Since, docker_archive, left_out, oci_archive
from buildctl.publish.export.parcel import Carried, find_carried, refuse_unreported, signed_with
from buildctl.publish.export.squashfs import find_packer, write_squashfs
from buildctl.publish.sign import KeySigner
from buildctl.registry.target import Target
from buildctl.runtimes.image import find_built

_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """`bare` leaves out what is attached to images; `since` names what the other side already has."""

    form: str
    arch: str | None = None
    output: Path | None = None
    since: str | None = None
    bare: bool = False
    signer: KeySigner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`bytes` is None for a folder; `left_out` are the bytes of layers that the other side has."""

    path: Path
    form: str
    carried: tuple[Carried, ...]
    bytes: int | None
    left_out: int

    def to_json(self) -> dict[str, Any]:
        images = [
            {"name": c.name, "arch": i.arch, "digest": str(i.descriptor.digest)} for c in self.carried for i in c.images
        ]
        return {
            "path": str(self.path),
            "format": self.form,
            "images": images,
            "documents": sum(len(c.attachments) for c in self.carried),
            "bytes": self.bytes,
            "bytesLeftOut": self.left_out,
        }

    def text(self) -> str:
        lines = [f"{c.name}  linux/{i.arch}  {i.descriptor.digest}" for c in self.carried for i in c.images]
        count = sum(len(c.attachments) for c in self.carried)
        more = [f"{count} documents" if count else "", f"{size(self.left_out)} left out" if self.left_out else ""]
        what = ", ".join(filter(None, (size(self.bytes) if self.bytes is not None else "", *more)))
        return "\n".join([*lines, f"{self.path}{f': {what}' if what else ''}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """`suffix` ends the default name; `write` puts the images at a new path."""

    suffix: str
    write: Callable[[Path, Sequence[Carried], Since | None], None]
    one_image: bool = False
    documents: bool = False


def _docker(target: Path, found: Sequence[Carried], _: Since | None) -> None:
    _write(target, docker_archive(found))


def _oci(target: Path, found: Sequence[Carried], since: Since | None) -> None:
    _write(target, oci_archive(found, since))


def _squashfs(target: Path, found: Sequence[Carried], _: Since | None) -> None:
    packer = find_packer()
    write_squashfs(packer, found[0].layout, found[0].images[0].descriptor, target)


def _folder(target: Path, found: Sequence[Carried], _: Since | None) -> None:
    unpack_image(found[0].layout, found[0].images[0].descriptor, target)


FORMS: Mapping[str, _Form] = {
    "docker-archive": _Form(suffix=".docker.tar", write=_docker),
    "oci-archive": _Form(suffix=".oci.tar", write=_oci, documents=True),
    "squashfs": _Form(suffix=".sqfs", write=_squashfs, one_image=True),
    "dir": _Form(suffix="", write=_folder, one_image=True),
}


def export(open_project: Callable[[], Project], texts: Sequence[str], options: ExportOptions) -> Exported:
    """Write what `texts` lead to. Raises BuildctlError with the next step; then nothing is left behind."""
    form = FORMS[options.form]
    _refuse_options(form, options)
    if form.write is _squashfs:
        find_packer()  # before anything is fetched
    bare = options.bare or not form.documents
    found = tuple(c for text in texts for c in find_carried(open_project, text, options.arch, bare=bare))
    if form.one_image:
        _refuse_several(found)
    if not bare:
        refuse_unreported(found)
        if (signer := options.signer) is not None:
            found = tuple(signed_with(signer, carried) for carried in found)
    target = options.output or Path(_default_name(found) + form.suffix)
    since = _since(open_project, options.since) if options.since else None
    _place(target, lambda path: form.write(path, found, since))
    written = target.stat().st_size if target.is_file() else None
    return Exported(path=target, form=options.form, carried=found, bytes=written, left_out=left_out(found, since))


def _refuse_options(form: _Form, options: ExportOptions) -> None:
    if not form.documents and (options.since or options.signer):
        raise UsageError(f"--since and --sign-key are for oci-archive, not {options.form}")
    if options.bare and options.signer:
        raise UsageError("--bare leaves out signatures", hint="leave out --bare or --sign-key")


def _refuse_several(found: Sequence[Carried]) -> None:
    images = [image for carried in found for image in carried.images]
    if len(images) > 1:
        kinds = ", ".join(f"{image.name} for {image.arch}" for image in images)
        raise UsageError(f"this format holds one image, not {kinds}", hint="choose with --arch, and one name")


def _default_name(found: Sequence[Carried]) -> str:
    if len(found) > 1:
        return "images"
    (one,) = found
    arch = f"-{one.images[0].arch}" if len(one.images) == 1 and not one.name.endswith(one.images[0].arch) else ""
    return f"{one.repository.rpartition('/')[2]}-{one.name}{arch}"


def _since(open_project: Callable[[], Project], text: str) -> Since:
    """Layers that are there: in a layout those whose blobs are, in a registry those of the images it names."""
    target: Target = find_built(open_project, text)
    found = {layer.digest for image in target.images for layer in image.manifest.layers}
    if target.layout is not None:
        found = {digest for digest in found if target.layout.blob_path(digest).is_file()}
    return Since(name=_named(text, found), digests=frozenset(found))


def _named(text: str, found: set[Digest]) -> str:
    if not found:
        raise LayoutError(f"{text} has no layer that could be left out", hint="export without --since")
    return Path(text).name


def _place(target: Path, write: Callable[[Path], None]) -> None:
    """Write next to `target` and give it the name when it is whole; what is there already is never replaced."""
    if os.path.lexists(target):
        raise _exists(target)
    with translated(target), workplace(target.parent, f".{target.name}.export-") as folder:
        made = folder / target.name
        write(made)
        if made.is_dir():
            made.rename(target)
            sync_directory(target.parent)
            return
        made.chmod(0o644)
        try:
            os.link(made, target)
        except FileExistsError as error:
            raise _exists(target) from error
        except OSError:  # a file system without hard links
            made.rename(target)
        sync_directory(target.parent)


def _exists(target: Path) -> WriteError:
    return WriteError(f"{target} exists", hint="remove it, or name another file with --output")


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with open_progress("written") as progress, path.open("wb", buffering=_BUFFER) as file:
        task = progress.add(path.name, 0)
        for piece in pieces:
            file.write(piece)
            task.advance(len(piece))
        file.flush()
        os.fsync(file.fileno())
        task.finish()
