"""Layers to directories, as root or not, without ever leaving the target directory.

Where a name leads is decided in `tree`, always inside the target directory, which appears complete or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import FULL, translated
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.tarread import LayerReader
from buildctl.oci.trees.kept import discard_changed, keep_tree, remove_tree, rename_tree
from buildctl.oci.trees.tree import LayerTree, plain_directory

Owner = Callable[[int], int]  # an id of the image -> the id here that gets the file


def as_given(number: int) -> int:
    return number


def unpack_layer(
    blob: Path,
    media_type: str,
    target: Path,
    *,
    diff_id: Digest | None = None,
    stack: bool = False,
    kept: bool = False,
    owner: Owner | None = as_given,
) -> bool:
    """Unpack one layer into the new directory `target`; False if it exists already and so is complete.

    With `kept` it gets a receipt (`trees`). With `stack` the directory is meant to lie in an overlay on those of lower
    layers, so whiteouts raise LayoutError, as does anything else that cannot be unpacked: names that escape, device
    nodes, a broken blob, another `diff_id`. Modes are exact whatever the umask. As root, users and groups of files are
    what `owner` makes of the image's; for others, and with None, files belong to the caller and lose setuid and setgid.
    Extended attributes are left out.
    """
    if target.exists():
        return False
    with _appearing(target, keep_tree if kept else rename_tree) as folder:
        tree = _Tree(folder, stack=stack, owner=owner)
        with blob.open("rb", buffering=0) as file:
            _apply(tree, file, media_type, f"layer {blob.name[:12]}", diff_id)
        tree.finish()
    return True


def unpack_image(layout: Layout, descriptor: Descriptor, target: Path, *, owner: Owner | None = as_given) -> None:
    """Unpack all layers of an image into one directory, whiteouts applied, diff ids verified.

    `target` must not exist or be empty. See `unpack_layer` for what is refused.
    """
    if target.exists() and any(target.iterdir()):
        raise LayoutError(f"cannot unpack into {target}: it is not empty")
    pairs = _layers(layout, descriptor)
    with _appearing(target, rename_tree) as folder:
        tree = _Tree(folder, stack=False, owner=owner)
        for layer, diff_id in pairs:
            with layout.blob_path(layer.digest).open("rb", buffering=0) as file:
                _apply(tree, file, layer.media_type, f"layer {layer.digest.short}", diff_id)
        tree.finish()


def unpack_layers(
    layout: Layout,
    descriptor: Descriptor,
    cache: Path,
    *,
    owner: Owner | None = as_given,
    on_changed: Callable[[Path], None] = lambda _path: None,
) -> tuple[Path, ...]:
    """Unpack each layer of an image into its own directory in `cache`, named by diff id; lowest layer first.

    Existing directories are reused; one that was changed is unpacked again, and `on_changed` told. Raises LayoutError
    if the layers cannot be stacked.
    """

    def one(pair: tuple[Descriptor, Digest]) -> Path:
        layer, diff_id = pair
        target = cache / diff_id.hex
        with translated(target):
            if discard_changed(target):
                on_changed(target)
        blob = layout.blob_path(layer.digest)
        unpack_layer(blob, layer.media_type, target, diff_id=diff_id, stack=True, kept=True, owner=owner)
        return target

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return tuple(pool.map(one, _layers(layout, descriptor)))


def _layers(layout: Layout, descriptor: Descriptor) -> Sequence[tuple[Descriptor, Digest]]:
    layers, diff_ids = layout.manifest(descriptor).layers, layout.config(descriptor).diff_ids
    if len(layers) != len(diff_ids):
        raise LayoutError(f"image {descriptor.digest}: {len(layers)} layers, but {len(diff_ids)} diff ids")
    return list(zip(layers, diff_ids, strict=True))


def _apply(tree: _Tree, blob: BinaryIO, media_type: str, where: str, diff_id: Digest | None) -> None:
    reader = LayerReader(blob, media_type, where, hash_blob=False)
    tree.begin_layer()
    for info in reader:
        try:
            tree.add(info, reader)
        except LayoutError as error:
            raise LayoutError(f"{where}: {info.name!r} {error.message}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # the caller has a better message for a full disk
            raise LayoutError(f"{where}: cannot unpack {info.name!r}: {error}") from error
    if diff_id is not None and reader.diff_id != diff_id:
        raise LayoutError(f"{where} has the diff id {reader.diff_id}, not {diff_id} as in the configuration")


class _Tree(LayerTree):
    """A directory that receives the entries of layers."""

    def __init__(self, root: Path, *, stack: bool, owner: Owner | None) -> None:
        super().__init__(stack=stack)
        self.root = root
        self.owner = owner if os.geteuid() == 0 else None
        self.directories: dict[str, tarfile.TarInfo] = {}  # their modes and times come last: they may forbid writing

    def at(self, path: str) -> Path:
        return self.root / path

    def mode(self, path: str) -> int | None:
        try:
            return self.at(path).lstat().st_mode
        except FileNotFoundError:
            return None

    def link_target(self, path: str) -> str:
        return str(self.at(path).readlink())

    def names(self, path: str) -> list[str]:
        return [found.name for found in self.at(path).iterdir()]

    def remove(self, path: str) -> None:
        full = self.at(path)
        if self.is_directory(path):
            remove_tree(full)
            self.directories = {p: i for p, i in self.directories.items() if not _within(p, path)}
        else:
            full.unlink()

    def put_directory(self, path: str, info: tarfile.TarInfo, *, fresh: bool) -> None:
        if fresh:
            self.at(path).mkdir(0o700)
        self.directories[path] = info

    def put(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:
        full = self.at(path)
        if not info.issym():
            self.write(full, info, reader)
            return
        full.symlink_to(info.linkname)
        if self.owner:
            self.chown(full, info)
        os.utime(full, (info.mtime, info.mtime), follow_symlinks=False)

    def write(self, full: Path, info: tarfile.TarInfo, reader: LayerReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(full, flags, 0o600), "wb", buffering=0) as file:
            while chunk := reader.read():
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            if self.owner:
                self.chown(file.fileno(), info)
            os.fchmod(file.fileno(), info.mode & (0o7777 if self.owner else 0o1777))  # setuid would be the caller's
            os.utime(file.fileno(), (info.mtime, info.mtime))

    def put_link(self, path: str, source: str, info: tarfile.TarInfo) -> None:
        try:
            os.link(self.at(source), self.at(path), follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            raise LayoutError(f"is a hard link to {info.linkname!r}, which is not a file here") from error

    def finish(self) -> None:
        """Directories get their owners, modes and times: the deepest first, so that nothing changes them afterwards."""
        self.directories.setdefault("", plain_directory(""))
        for path, info in sorted(self.directories.items(), reverse=True):
            full = self.at(path)
            if self.owner:
                self.chown(full, info)
            full.chmod(info.mode & 0o7777)
            os.utime(full, (info.mtime, info.mtime))

    def chown(self, file: Path | int, info: tarfile.TarInfo) -> None:
        owner = self.owner or as_given
        try:
            if isinstance(file, int):
                os.fchown(file, owner(info.uid), owner(info.gid))
            else:
                os.chown(file, owner(info.uid), owner(info.gid), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):  # root of a user namespace that lacks this id
                raise


@contextmanager
def _appearing(target: Path, place: Callable[[Path, Path], object]) -> Iterator[Path]:
    """A directory next to `target` that `place` names so at the end; leftovers of killed processes are swept."""
    with translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.unpack-"
        with workplace(target.parent, prefix) as folder:
            yield folder
            place(folder, target)


@contextmanager
def workplace(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` to put something together in; removed at the end, as are those of killed processes."""
    for stale in parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError), _held(stale):
            remove_tree(stale)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError, BlockingIOError), ExitStack() as stack:
            stack.enter_context(_held(folder))
            if folder.exists():  # and no sweeper was faster than our lock
                held = stack.pop_all()
                break
    with held:
        try:
            yield folder
        finally:
            remove_tree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a directory while in use; BlockingIOError if it is locked."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
