"""Images that clients read file by file: their twins under `-lazy` tags go where the images go, and can be trusted."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from buildctl.console.progress import Silent
from buildctl.oci.compression import CHUNKED
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, directory_entry, file_entry
from buildctl.oci.image import Descriptor, Layer, Manifest, MediaType, canonical_json
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import parse_object
from buildctl.publish.pipeline.retention import links_in
from buildctl.publish.publish import PublishOptions, planned_tags, promote
from buildctl.publish.sign import KeySigner
from buildctl.publish.verify import Verified, verify
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.reference import Reference
from buildctl.testing.report import Status
from tests.conftest import buildctl
from tests.support.engine import Unavailable
from tests.support.images import config_of
from tests.support.lazy import Counted, podman_layer, sha256, stargz_layer
from tests.support.podman import podman
from tests.support.projects import Small
from tests.support.publishing import outcomes, platforms, push, repository
from tests.support.registry import Proxy

CPU, CUDA = "cpu-2.6-arm64", "cuda-2.6-amd64"
WANTED = b"import torch\n"


@pytest.fixture
def to(front: Proxy, request: pytest.FixtureRequest) -> Repository:
    return repository(front, request)


@pytest.fixture
def signer(tmp_path: Path) -> KeySigner:
    private = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    return KeySigner(PrivateKey.load(str(tmp_path / "key.pem")))


def chunked(project: Small) -> Layer:
    """A layer with a large file that a lazy client does not read, and a small one that it does."""
    entries = [directory_entry("usr"), file_entry("usr/large", os.urandom(5 << 20)), file_entry("usr/small.py", WANTED)]
    return layer_of(project, entries)


def layer_of(project: Small, entries: list[Entry]) -> Layer:
    out = io.BytesIO()
    layer = write_layer(entries, out, compression=CHUNKED)
    project.blobs.path(layer.descriptor.digest).write_bytes(out.getvalue())
    return layer


def build(project: Small) -> Descriptor:
    return put(project, chunked(project))


def put(project: Small, layer: Layer) -> Descriptor:
    """As the image for arm64, tested."""
    layers = [project.shared, layer]
    config = replace(config_of(layers, arch="arm64"), labels={"dev.buildctl.torch": "2.6.0"})
    found = project.layout.put_image(name=CPU, config=config, layers=layers, blob=project.blobs.path)
    project.report(CPU)
    return found


def twin(to: Repository, tag: str, platform: str = "linux/arm64") -> Manifest:
    digest = platforms(to, tag)[platform]
    return Manifest.from_json(parse_object(to.manifest(str(digest)).data, tag))


def checked(to: Repository, tag: str, signer: KeySigner | None = None) -> Mapping[str, tuple[Status, str]]:
    """What `verify` finds about the image for arm64."""
    there = replace(to, reference=to.reference.tagged(tag), write=False)
    key = signer.key.public if signer else None
    (found,) = verify(there, arch="arm64", scratch=None, progress=Silent(), key=key)
    assert isinstance(found, Verified)
    return {finding.name: (finding.status, finding.detail) for finding in found.findings}


def blob(front: Proxy, to: Repository, layer: Descriptor) -> Counted:
    url = f"http://{front.netloc}/v2/{to.reference.repository}/blobs/{layer.digest}"

    def read(offset: int, size: int) -> bytes:
        got = requests.get(url, headers={"Range": f"bytes={offset}-{offset + size - 1}"}, timeout=10)
        assert got.status_code == 206
        return got.content

    return Counted(read)


def test_a_client_gets_a_file_of_a_published_image_and_little_else(
    project: Small, to: Repository, front: Proxy
) -> None:
    built = build(project)
    said = outcomes(push(project, to))
    assert {said[tag] for tag in ("cpu-2.6", "cpu-2.6-lazy", "2.6", "2.6-lazy", "2.6-cpu-lazy")} == {"CREATED"}
    assert "cuda-2.6-lazy" not in said  # its image is plain
    image, lazy = project.layout.manifest(built), twin(to, "cpu-2.6-lazy")
    assert (lazy.config, [d.digest for d in lazy.layers]) == (image.config, [d.digest for d in image.layers])
    assert platforms(to, "2.6-lazy")["linux/amd64"] == project.layout.resolve(CUDA).digest
    stargz = stargz_layer(blob(front, to, lazy.layers[1]), lazy.layers[1].size, lazy.layers[1].annotations)
    theirs = podman_layer(blob(front, to, image.layers[1]), image.layers[1].annotations)
    for client in (stargz, theirs):
        assert client.content("usr/small.py") == WANTED
        assert client.blob.bytes < 5000 < 5 << 20 < image.layers[1].size
    assert sha256(b"".join(theirs.tar())) == str(project.layout.config(built).diff_ids[1])


def test_the_twin_goes_where_the_tag_goes(project: Small, to: Repository) -> None:
    build(project)
    push(project, to, revision="one")
    before = platforms(to, "cpu-2.6-lazy")
    assert outcomes(push(project, to, revision="one"))["cpu-2.6-lazy"] == "UNCHANGED"
    build(project)
    project.report(CPU, probe=Status.FAILED)
    said = outcomes(push(project, to, revision="two"))
    assert (said["cpu-2.6"], said.get("cpu-2.6-lazy")) == ("REFUSED", None)
    assert platforms(to, "cpu-2.6-lazy") == before
    project.report(CPU)
    assert outcomes(push(project, to, revision="two"))["cpu-2.6-lazy"] == "MOVED"
    assert platforms(to, "cpu-2.6-lazy") != before
    # an image that is not zstd:chunked any more: whoever pulls the tag gets it whole, and not an old one for ever
    project.build(CPU)
    project.report(CPU)
    assert outcomes(push(project, to, revision="three"))["cpu-2.6-lazy"] == "MOVED"
    assert platforms(to, "cpu-2.6-lazy") == platforms(to, "cpu-2.6")


def test_tags_are_listed_with_their_twins(project: Small, to: Repository) -> None:
    build(project)
    options = PublishOptions(revision="r")
    planned = {p.name: p for p in planned_tags(project.project, project.pinned, project.cells(), options)}
    assert planned.keys() == outcomes(push(project, to, revision="r")).keys()
    assert str(planned["2.6-lazy"].digests[CPU]) == str(platforms(to, "2.6-lazy")["linux/arm64"])
    assert "cuda-2.6-lazy" not in planned


def test_a_dry_run_says_what_would_move(project: Small, to: Repository) -> None:
    build(project)
    assert outcomes(push(project, to, dry_run=True))["cpu-2.6-lazy"] == "CREATED"
    assert to.head("cpu-2.6-lazy") is None


def test_promote_makes_the_twin_itself(project: Small, to: Repository, signer: KeySigner) -> None:
    build(project)
    pushed = push(project, to, tags="immutable", revision="r", signer=signer)
    assert {"2.6.0-cpu-py3.13-arm64-r", "2.6.0-cpu-py3.13-arm64-lazy-r"} <= outcomes(pushed).keys()
    forged = canonical_json({**to.manifest("2.6.0-cpu-py3.13-arm64-lazy-r").json(), "annotations": {}})
    to.put_manifest(forged, MediaType.MANIFEST, "2.6.0-cpu-py3.13-arm64-lazy-r")
    options = PublishOptions(revision="r", signer=signer)
    said = outcomes(promote(project.project, project.pinned, project.cells(), to, options))
    assert said["2.6.0-cpu-py3.13-arm64-lazy-r"] == "REFUSED"  # somebody else's
    assert said["cpu-2.6-lazy"] == "CREATED"
    assert platforms(to, "cpu-2.6-lazy")["linux/arm64"] != Digest.of(forged)
    assert checked(to, "cpu-2.6-lazy", signer)["twin"][0] is Status.PASSED


def test_verify_follows_the_twin_to_the_image(project: Small, to: Repository, signer: KeySigner) -> None:
    built = build(project)
    push(project, to, signer=signer)
    for key in (None, signer):
        found = checked(to, "cpu-2.6-lazy", key)
        assert found["twin"] == (Status.PASSED, f"of image sha256:{built.digest.short}, for stargz")
        assert {found[name][0] for name in ("platform", "layers", "report")} == {Status.PASSED}
    assert found["signature"][0] is Status.PASSED
    assert "twin" not in checked(to, "cpu-2.6", signer)


@pytest.mark.parametrize("what", ["a layer's table", "the image it names", "signed by nobody"])
def test_verify_refuses_a_twin_that_is_not_one(what: str, project: Small, to: Repository, signer: KeySigner) -> None:
    build(project)
    push(project, to, signer=None if what == "signed by nobody" else signer)
    value = to.manifest(str(platforms(to, "cpu-2.6-lazy")["linux/arm64"])).json()
    if what == "a layer's table":
        value["layers"][1]["annotations"] = {"containerd.io/snapshot/stargz/toc.digest": str(Digest.of(b"theirs"))}
    elif what == "the image it names":
        value["annotations"]["dev.buildctl.twin-of"] = str(project.layout.resolve(CUDA).digest)
    to.put_manifest(canonical_json(value), MediaType.MANIFEST, "cpu-2.6-lazy")
    found = checked(to, "cpu-2.6-lazy", signer)
    assert found["signature"][0] is Status.FAILED
    assert found["twin"][0] is Status.FAILED, found["twin"]


def test_inspect_tells_the_image_from_its_twin(project: Small, to: Repository) -> None:
    built = build(project)
    push(project, to)
    place = Reference.parse(f"{to.reference.name}:cpu-2.6-lazy")
    said = buildctl("inspect", str(place), cwd=project.project.root)
    assert f"zstd:chunked: 1 of 2 layers, file by file for stargz, twin of {built.digest}" in said.stdout, said.stderr
    here = buildctl("inspect", CPU, cwd=project.project.root).stdout
    assert "zstd:chunked: 1 of 2 layers, file by file for podman; for stargz the tag with -lazy" in here


@pytest.mark.big
@pytest.mark.network
def test_podman_fetches_what_it_does_not_have_and_makes_the_same_tar_of_it(
    project: Small, to: Repository, front: Proxy, stores: Path
) -> None:
    large, reference = os.urandom(5 << 20), f"{front.netloc}/{to.reference.repository}:cpu-2.6"
    folder = stores / "podman"
    try:
        with podman(folder) as run:
            pulled = []
            for text in (b"first\n", b"second\n"):
                layer = layer_of(project, [file_entry("large", large), file_entry("small", text)])
                image = put(project, layer)
                push(project, to)
                front.seen.clear()
                pulled.append(run("pull", "-q", "--tls-verify=false", "--arch=arm64", reference).strip())
                fetched = sum(e.got for e in front.seen if str(layer.descriptor.digest) in e.path)
                assert fetched > 5 << 20 if text == b"first\n" else 100 < fetched < 5000
                assert pulled[-1] == project.layout.manifest(image).config.digest.hex
                run("save", "-q", "--format=oci-dir", "--uncompressed", "-o", f"/data/{len(pulled)}", pulled[-1])
                saved = {p.name for p in (folder / "data" / str(len(pulled)) / "blobs/sha256").iterdir()}
                assert {d.hex for d in project.layout.config(image).diff_ids} <= saved
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")


def test_a_twin_keeps_its_image(project: Small, to: Repository) -> None:
    built = build(project)
    push(project, to)
    twin = links_in(to, platforms(to, "cpu-2.6-lazy")["linux/arm64"])
    assert twin is not None
    assert twin.members == {built.digest}


def test_an_archive_brings_the_twin_into_another_registry(
    project: Small, to: Repository, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path, signer: KeySigner
) -> None:
    build(project)
    push(project, to)
    archive = tmp_path / "a.oci.tar"
    store = {"BUILDCTL_CACHE": str(tmp_path / "cache")}
    done = buildctl("export", f"{to.reference}:2.6", "--format", "oci-archive", "-o", archive, cwd=tmp_path, env=store)
    assert done.returncode == 0, done.stderr
    there = repository(front, request, name="there")
    key = str(tmp_path / "key.pem")
    done = buildctl("publish", archive, "--to", str(there.reference), "--sign-key", key, cwd=tmp_path, env=store)
    assert done.returncode == 0, done.stderr
    assert "2.6-lazy" in done.stdout
    assert there.manifest("2.6-lazy").data == to.manifest("2.6-lazy").data
    assert checked(there, "2.6-lazy", signer)["twin"][0] is Status.PASSED
