"""Which packages an image holds, read from its layers: dpkg's database and the metadata of Python distributions.

The result depends on a layer's bytes alone, so it is kept in the store under the layer's digest and read once.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Protocol

from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.artifacts.store import Store
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import keep_whole
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.receipts import doubt
from buildctl.oci.tarread import LayerReader

FORMAT = 2
_STATUS = re.compile(r"(?:\./)?var/lib/dpkg/(?:status|status\.d/[^/]+)")
_METADATA = re.compile(r"(?:\./)?(?:.*/)?(?:site|dist)-packages/(?P<inside>.+/)?[^/]+\.dist-info/METADATA")
# distributions in Debian packages: those are listed as such
_OF_DEBIAN = re.compile(r"(?:\./)?usr/lib/python3/dist-packages/")
_COPYRIGHT = re.compile(r"(?:\./)?usr/share/doc/([^/]+)/copyright")
_DOC = re.compile(r"(?:\./)?usr/share/doc/([^/]+)")
DAMAGED = "`buildctl fsck` finds what else is damaged; then build again"
_LIMIT = 16 << 20  # bytes of one file that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """`kind` is `deb` or `pypi`; names of the latter are normalised (PEP 503). `licences` are as the package says.

    `within` names the distribution that bundles this one (setuptools does): it was not installed by itself.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    supplier: str = ""
    licences: tuple[str, ...] = ()
    expression: str = ""
    within: str = ""

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__slots__} | {"licences": list(self.licences)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Package:
        return cls(**{**value, "licences": tuple(value["licences"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContents:
    """`debian` is None if the layer has no dpkg database; otherwise it replaces the one below."""

    debian: tuple[Package, ...] | None
    python: tuple[Package, ...]
    licences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "debian": None if self.debian is None else [p.to_json() for p in self.debian],
            "python": [p.to_json() for p in self.python],
            "licences": {name: list(found) for name, found in self.licences.items()},
        }

    @classmethod
    def parse(cls, data: bytes) -> LayerContents:
        """From `to_json` in bytes. Raises LayoutError for anything else, another FORMAT included."""
        try:
            value = json.loads(data)
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']!r}")
            return cls.from_json(value)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LayoutError(f"not the contents of a layer in format {FORMAT} ({error!r})") from error

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerContents:
        debian = value["debian"]
        return cls(
            debian=None if debian is None else tuple(map(Package.from_json, debian)),
            python=tuple(map(Package.from_json, value["python"])),
            licences={name: tuple(found) for name, found in value["licences"].items()},
        )


def packages_of(layout: Layout, manifest: Descriptor, *, store: Store | None = None) -> tuple[Package, ...]:
    """Every package of an image, sorted. Whiteouts of packages are not followed: our layers have none."""
    debian: tuple[Package, ...] = ()
    python: dict[tuple[str, str], Package] = {}
    licences: dict[str, tuple[str, ...]] = {}
    for layer in layout.manifest(manifest).layers:
        found = layer_contents(layout, layer, store=store)
        debian = debian if found.debian is None else found.debian
        python.update(((p.within, p.name), p) for p in found.python)
        licences.update(found.licences)
    named = (replace(p, licences=licences.get(p.name, ())) for p in debian)
    return tuple(sorted((*named, *python.values()), key=lambda p: (p.kind, p.name, p.within, p.version)))


def layer_contents(layout: Layout, layer: Descriptor, *, store: Store | None = None) -> LayerContents:
    """Raises LayoutError for an unreadable layer."""
    if store is not None and (known := kept_contents(store, layer.digest)) is not None:
        return known
    found = _read(layout, layer)
    if store is not None:
        keep_contents(store, layer.digest, found)
    return found


def kept_contents(store: Store, layer: Digest) -> LayerContents | None:
    """What was read of this layer before; None also if another version of buildctl wrote it, or it is damaged."""
    try:
        value = unsealed(layer.hex, _kept(store, layer).read_bytes())
    except OSError:
        return None
    return LayerContents.from_json(value) if value is not None and value.get("format") == FORMAT else None


def keep_contents(store: Store, layer: Digest, found: LayerContents) -> None:
    path = _kept(store, layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_whole(path, sealed(layer.hex, found.to_json()))


def _kept(store: Store, digest: Digest) -> Path:
    return store.root / "contents" / f"{digest.hex}.json"


class Entries(Protocol):
    """The entries of a layer in order, as `LayerReader` gives them; `read` is the body of the last one."""

    where: str

    def __iter__(self) -> Iterator[tarfile.TarInfo]: ...

    def read(self, limit: int = ...) -> bytes: ...


def _read(layout: Layout, layer: Descriptor) -> LayerContents:
    with layout.open_blob(layer.digest) as file:
        reader = LayerReader(file, layer.media_type, f"layer sha256:{layer.digest.short}")
        found = read_contents(reader)
        reader.finish_blob()
    if reader.digest != layer.digest:
        doubt(layout.blob_path(layer.digest))
        raise LayoutError(f"{layout.blob_path(layer.digest)} does not match its digest", hint=DAMAGED)
    return found


def read_contents(reader: Entries) -> LayerContents:
    """From the entries of a layer, which it passes over once. Raises LayoutError."""
    debian: list[Package] | None = None
    python: list[Package] = []
    licences: dict[str, tuple[str, ...]] = {}
    links: dict[str, str] = {}
    for info in reader:
        name = info.name
        if info.issym() and (match := _DOC.fullmatch(name)):
            links[match[1]] = info.linkname
        elif not info.isreg():
            continue
        elif _STATUS.fullmatch(name):
            debian = [*(debian or []), *_debian(_text(reader, info.size, name))]
        elif (match := _METADATA.fullmatch(name)) and not _OF_DEBIAN.match(name):
            found = _distribution(_text(reader, info.size, name))
            python.append(replace(found, within=(match["inside"] or "").partition("/")[0]))
        elif match := _COPYRIGHT.fullmatch(name):
            licences[match[1]] = _debian_licences(_text(reader, info.size, name))
    for name, target in links.items():
        licences.setdefault(name, licences.get(target.rstrip("/").rpartition("/")[2], ()))
    return LayerContents(
        debian=None if debian is None else tuple(sorted(debian, key=lambda p: (p.name, p.architecture))),
        python=tuple(sorted(python, key=lambda p: (p.name, p.within))),
        licences=dict(sorted(licences.items())),
    )


def _text(reader: Entries, size: int, name: str) -> str:
    if size > _LIMIT:
        raise LayoutError(f"{reader.where}: {name} has {size} bytes")
    parts = []
    while data := reader.read(_LIMIT):
        parts.append(data)
    return b"".join(parts).decode("utf-8", "replace")


def _debian(text: str) -> Iterable[Package]:
    for stanza in re.split(r"\n\s*\n", text.strip()):
        fields = dict(re.findall(r"^([A-Za-z-]+): ?(.*)$", stanza, re.MULTILINE))
        if "Package" in fields and fields.get("Status", "install ok installed").endswith(" installed"):
            yield Package(
                kind="deb",
                name=fields["Package"],
                version=fields.get("Version", ""),
                architecture=fields.get("Architecture", ""),
                supplier=fields.get("Maintainer", "").partition(" <")[0],
            )


def _distribution(text: str) -> Package:
    """Core metadata; PEP 639 fields take precedence over older ones."""
    fields = HeaderParser().parsestr(text)
    classifiers = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier", []) if c.startswith("License :: ")]
    plain = (fields.get("License") or "").strip()
    licences = classifiers or ([plain] if plain and "\n" not in plain and len(plain) <= 100 else [])
    author = fields.get("Author") or fields.get("Maintainer") or ""
    email = fields.get("Author-email") or fields.get("Maintainer-email") or ""
    name = re.sub(r"[-_.]+", "-", str(fields.get("Name", ""))).lower()
    return Package(
        kind="pypi",
        name=name,
        version=str(fields.get("Version", "")),
        supplier=_one_line(author or email.partition("<")[0] or email) or name,
        licences=tuple(dict.fromkeys(licences)),
        expression=_one_line(fields.get("License-Expression") or ""),
    )


def _one_line(text: str) -> str:
    return " ".join(str(text).replace('"', "").split())[:200]


def _debian_licences(text: str) -> tuple[str, ...]:
    """The short names in a machine-readable copyright file; nothing for the others."""
    if not text.lstrip().startswith(("Format:", "Format-Specification:")):
        return ()
    names = (name.strip() for name in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE))
    return tuple(sorted({name for name in names if len(name) <= 100}))
