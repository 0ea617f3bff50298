"""`buildctl export` and what is done with it elsewhere: another registry, podman, buildah, skopeo, squashfs tools."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from stat import filemode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from buildctl.ground.run import which
from buildctl.oci.image import Index, MediaType
from buildctl.oci.layout import Layout
from buildctl.oci.trees.merged import merged_tar
from buildctl.publish.export import squashfs
from buildctl.publish.sign import KeySigner, bundles, covered
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.referrers import referrers
from buildctl.testing.report import Status
from tests.conftest import Ran, buildctl
from tests.support.images import file, folder, hard_link, image, symlink, tar
from tests.support.projects import Small
from tests.support.publishing import push, repository, skopeo
from tests.support.registry import Proxy


def plain_key(folder: Path) -> Path:
    path = folder / "key.pem"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    return path


def needed(*names: str) -> None:
    if missing := [name for name in names if which(name) is None]:
        pytest.skip(f"NOT RUN: {', '.join(missing)} not installed (scripts/setup tools)")


def elsewhere(tmp_path: Path, *arguments: str | Path) -> Ran:
    """On another machine: with a store of its own, and no project."""
    away = tmp_path / "away"
    away.mkdir(exist_ok=True)
    return buildctl(*arguments, cwd=away, env={"BUILDCTL_CACHE": str(away / "cache")})


def exported(tmp_path: Path, *arguments: str | Path) -> Path:
    done = buildctl("export", *arguments, cwd=tmp_path, env={"BUILDCTL_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr
    return Path(arguments[-1])


def everything(of: Repository, tag: str) -> dict[str, list[str]]:
    """The digests that a tag leads to, each with what is attached to it."""
    top = of.manifest(tag)
    digests = [top.descriptor.digest]
    if top.descriptor.media_type == MediaType.INDEX:
        digests += [member.digest for member in Index.from_json(top.json()).manifests]
    return {str(d): sorted(str(r.descriptor.digest) for r in referrers(of, d)) for d in digests}


def test_a_signed_index_arrives_elsewhere_with_equal_digests_and_documents(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    key = PrivateKey.load(str(plain_key(tmp_path)))
    here, there = repository(front, request), repository(front, request, name="there")
    push(project, here, signer=KeySigner(key))
    one = exported(tmp_path, f"{here.reference}:2.6", "--format", "oci-archive", "-o", tmp_path / "one.oci.tar")
    two = exported(tmp_path, f"{here.reference}:2.6", "--format", "oci-archive", "-o", tmp_path / "two.oci.tar")
    assert one.read_bytes() == two.read_bytes()
    shown = json.loads(elsewhere(tmp_path, "inspect", one, "--json").stdout)
    assert {i["platform"] for i in shown["images"]} == {"linux/amd64", "linux/arm64"}
    dry = elsewhere(tmp_path, "publish", one, "--to", str(there.reference), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    front.seen.clear()
    done = elsewhere(tmp_path, "publish", one, "--to", str(there.reference))
    assert done.returncode == 0, done.stderr
    assert everything(there, "2.6") == everything(here, "2.6")
    digest = there.manifest("2.6").descriptor.digest
    assert covered(bundles(there, digest), key.public, digest) is not None
    again = elsewhere(tmp_path, "publish", one, "--to", str(there.reference), "--json")
    assert [d["bytesSent"] for d in json.loads(again.stdout)["delivered"]] == [0]


def test_since_carries_what_is_new_and_is_refused_where_the_rest_is_not(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here, there, empty = (repository(front, request, name=n) for n in ("here", "there", "empty"))
    push(project, here, "cuda-2.6-amd64")
    whence = (f"{here.reference}:cuda-2.6", "--format", "oci-archive")
    first = exported(tmp_path, *whence, "-o", tmp_path / "first.oci.tar")
    assert elsewhere(tmp_path, "publish", first, "--to", str(there.reference)).returncode == 0
    project.build("cuda-2.6-amd64")
    project.report("cuda-2.6-amd64")
    push(project, here, "cuda-2.6-amd64")
    whole = exported(tmp_path, *whence, "-o", tmp_path / "whole.oci.tar")
    new = exported(tmp_path, *whence, "--since", first, "-o", tmp_path / "new.oci.tar")
    assert whole.stat().st_size - new.stat().st_size > 200_000  # the shared layer
    shutil.rmtree(tmp_path / "away" / "cache")
    front.seen.clear()
    refused = elsewhere(tmp_path, "publish", new, "--to", str(empty.reference))
    assert refused.returncode == 8
    assert "it holds only what is new since first.oci.tar: publish that first" in refused.stderr
    assert front.writes() == []
    assert elsewhere(tmp_path, "publish", new, "--to", str(there.reference)).returncode == 0
    assert everything(there, "cuda-2.6") == everything(here, "cuda-2.6")


def test_a_tag_needs_a_report_that_passed(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here, there = repository(front, request), repository(front, request, name="there")
    project.report("cuda-2.6-amd64", devices=Status.NOT_RUN)
    name = push(project, here, "cuda-2.6-amd64", tags="immutable").tags[0].name
    file = exported(tmp_path, f"{here.reference}:{name}", "--format", "oci-archive", "-o", tmp_path / "a.oci.tar")
    done = elsewhere(tmp_path, "publish", file, "--to", str(there.reference))
    assert done.returncode == 1, done.stderr
    assert "NOT RUN without permission: devices" in done.stdout
    assert there.head(name) is None
    allowed = elsewhere(tmp_path, "publish", file, "--to", str(there.reference), "--allow-not-run", "devices")
    assert allowed.returncode == 0, allowed.stderr
    assert there.manifest(name).descriptor == here.manifest(name).descriptor


def test_a_published_image_without_a_report_is_not_carried(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here = repository(front, request)
    project.project.report(project.cell("cuda-2.6-amd64")).unlink()
    name = push(project, here, "cuda-2.6-amd64", tags="immutable").tags[0].name
    done = buildctl("export", f"{here.reference}:{name}", "--format", "oci-archive", cwd=tmp_path)
    assert done.returncode == 8
    assert "has no report about sha256:" in done.stderr
    assert list(tmp_path.glob("*.tar")) == []


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """A layout with an image of several layers: owners, modes, links, a whiteout."""
    low = tar(
        folder("etc"), replace(file("etc/x", b"x" * 9000), uid=7, gid=8, mtime=315532801), folder("gone"),
        file("gone/a"), symlink("lib", "usr/lib"), folder("usr"), folder("usr/lib"), file("bin", b"1", mode=0o4755),
        hard_link("also", "bin"),
    )  # fmt: skip
    layout, _ = image(tmp_path, low, tar(file(".wh.gone", b""), file("lib/y", b"y")))
    return layout.root


@pytest.fixture
def short() -> Iterator[Path]:
    """podman takes no runroot of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_buildah_and_skopeo_take_the_archives(owned: Path, tmp_path: Path, short: Path, form: str) -> None:
    needed("podman", "buildah", "skopeo")
    made = exported(tmp_path, f"{owned}:a-amd64", "--bare", "--format", form, "-o", tmp_path / "a.tar")
    config = Layout(owned).manifest(Layout(owned).resolve("a-amd64")).config.digest
    own = ["--root", str(tmp_path / "root"), "--runroot", str(short), "--storage-driver", "vfs"]
    loaded = subprocess.run(["podman", *own, "load", "-i", made], capture_output=True, text=True, check=False)
    assert "pytorch:a-amd64" in loaded.stdout, loaded.stderr
    ids = subprocess.run(["podman", *own, "images", "-q", "--no-trunc"], capture_output=True, text=True, check=True)
    assert ids.stdout.split() == [str(config)]
    own[1] = str(tmp_path / "root2")
    pulled = subprocess.run(["buildah", *own, "pull", f"{form}:{made}"], capture_output=True, text=True, check=False)
    assert pulled.stdout.strip() == config.hex, pulled.stderr
    assert json.loads(skopeo("inspect", f"{form}:{made}"))["Architecture"] == "amd64"


def test_unsquashfs_agrees_with_the_layers_entry_by_entry(owned: Path, tmp_path: Path) -> None:
    needed("tar2sqfs", "unsquashfs")
    layout = Layout(owned)
    descriptor = layout.resolve("a-amd64")
    for name in "ab":
        squashfs.write_squashfs(squashfs.find_packer(), layout, descriptor, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    argv = ["unsquashfs", "-UTC", "-d", str(tmp_path / "out"), "-n", "-llnumeric", str(tmp_path / "a")]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    found = dict(entry for line in listed if (entry := in_listing(line)))
    with tarfile.open(fileobj=io.BytesIO(b"".join(merged_tar(layout, descriptor)))) as archive:
        wanted = dict(in_tar(archive, info) for info in archive)
    assert found[""] == "drwxr-xr-x 0/0 1980-01-01 00:00"
    assert found == wanted
    subprocess.run(["unsquashfs", "-d", tmp_path / "out", "-n", "-q", tmp_path / "a"], capture_output=True, check=True)
    assert (tmp_path / "out/etc/x").read_bytes() == b"x" * 9000
    assert (tmp_path / "out/also").stat().st_ino == (tmp_path / "out/bin").stat().st_ino


def in_listing(line: str) -> tuple[str, str] | None:
    """A line of `unsquashfs -llnumeric`: path -> mode, owner, size unless it is a directory, time, link target."""
    match = re.match(r"([-dl]\S{9}) (\d+/\d+) +(\d+) (\S+ \S+) \S*/out/?(.*?)(?: -> (.*))?$", line)
    if match is None:
        return None
    mode, owner, size, time, path, target = match.groups()
    words = (mode, owner, "" if mode.startswith("d") else size, time, target or "")
    return path, " ".join(word for word in words if word)


def in_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> tuple[str, str]:
    real = archive.getmember(info.linkname) if info.islnk() else info
    kind = "d" if real.isdir() else "l" if real.issym() else "-"
    time = datetime.fromtimestamp(real.mtime, UTC).strftime("%Y-%m-%d %H:%M")
    size = "" if real.isdir() else str(len(real.linkname) if real.issym() else real.size)
    words = (
        kind + filemode(real.mode)[1:],
        f"{real.uid}/{real.gid}",
        size,
        time,
        real.linkname if real.issym() else "",
    )
    return info.name.removeprefix("."), " ".join(word for word in words if word)
