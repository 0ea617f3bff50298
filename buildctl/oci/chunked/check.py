"""Whether a zstd:chunked layer is the same when read through its table of contents and when read whole.

A lazy client looks only at the table, so a wrong table would be another image under the same digests.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from buildctl.ground.errors import LayoutError
from buildctl.oci.chunked.read import RebuiltTar, Table, read_table
from buildctl.oci.chunked.table import Places, described
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY, Entry, Kind
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.tarread import LayerReader

_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
}


def chunked_problems(path: Path, layer: Descriptor, diff_id: Digest | None, where: str) -> Iterator[str]:
    """Empty for a plain layer, or one that is the same both ways. `diff_id` is the one in the configuration."""
    try:
        if (places := Places.of(layer)) is None:
            return
        with path.open("rb") as blob:
            yield from _problems(blob, places, diff_id, where)
    except LayoutError as error:
        yield error.message
    except OSError as error:
        yield f"{where}: cannot read it: {error.strerror}"


def _problems(blob: BinaryIO, places: Places, diff_id: Digest | None, where: str) -> Iterator[str]:
    blob.seek(places.split.after)
    if blob.read(len(places.footers) + 1) != places.footers:
        yield f"{where}: its footers are not what the manifest says"
        return
    table = read_table(blob, places, where)
    reader = LayerReader(cast("BinaryIO", RebuiltTar(blob, places, table, where)), MediaType.LAYER_TAR, where)
    said = iter(table.records)
    for info in reader:
        if not _agrees(said, table, info):
            yield f"{where}: {info.name!r} is not in its table of contents as it is in its tar"
            return
    if (more := next(said, None)) is not None:
        yield f"{where}: {more.get('name')!r} is in its table of contents, but not in its tar"
    if reader.diff_id != diff_id:
        yield f"{where}: its table of contents leads to the diff id {reader.diff_id}, not {diff_id}"


def _agrees(said: Iterator[Mapping[str, Any]], table: Table, info: tarfile.TarInfo) -> bool:
    """Whether the next records are those that `write` would have made of that entry, key by key. The digests in them
    are compared with the content as it is read.
    """
    if (kind := _KINDS.get(info.type)) is None or not 0 <= info.mtime < 1 << 34:
        return False
    entry = Entry(
        path=info.name.rstrip("/"),
        kind=kind,
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        size=info.size,
        mtime=int(info.mtime),
        target=info.linkname,
        capability=info.pax_headers.get(CAPABILITY, "").encode("utf-8", "surrogateescape"),
    )
    chunks = table.chunks.get(entry.path, ()) if kind is Kind.FILE else ()
    return all(next(said, None) == one for one in described(entry, chunks, table.digests.get(entry.path)))
