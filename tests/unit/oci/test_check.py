from __future__ import annotations

import dataclasses
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildctl.oci.check import check_image, check_layout
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY, capability
from buildctl.oci.image import Descriptor, Index, MediaType, Platform, canonical_json
from buildctl.oci.layout import Layout
from tests.support.images import (
    AMD64_ELF,
    ARM64_ELF,
    Blobs,
    Member,
    compress,
    config_of,
    file,
    folder,
    hard_link,
    image,
    put,
    symlink,
    tar,
)

GOOD = tar(folder("usr"), folder("usr/bin"), file("usr/bin/python", AMD64_ELF, mode=0o755), symlink("bin", "usr/bin"))
MORE = tar(folder("usr"), folder("usr/lib"), file("usr/lib/x.py"), hard_link("usr/lib/y.py", "usr/lib/x.py"))
TYPES = [MediaType.LAYER_ZSTD, MediaType.LAYER_GZIP, MediaType.LAYER_TAR]


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def overwrite(layout: Layout, digest: Digest, data: bytes) -> None:
    """Replace a blob's bytes under its name (not in place: the name may be a hard link)."""
    path = layout.blob_path(digest)
    path.unlink()
    path.write_bytes(data)


def rewritten(
    layout: Layout,
    descriptor: Descriptor,
    *,
    config: Callable[[dict[str, Any]], object] | None = None,
    manifest: Callable[[dict[str, Any]], object] | None = None,
    retag: Mapping[str, Any] | None = None,
) -> Descriptor:
    """The image again, under right digests, with its configuration or manifest changed by the given functions."""
    value = json.loads(layout.read_bytes(descriptor))
    if config is not None:
        inner = json.loads(layout.read_bytes(Descriptor.from_json(value["config"])))
        config(inner)
        value["config"] = layout.write_bytes(MediaType.CONFIG, canonical_json(inner)).to_json()
    if manifest is not None:
        manifest(value)
    written = layout.write_bytes(MediaType.MANIFEST, canonical_json(value))
    new = dataclasses.replace(written, platform=descriptor.platform, **(retag or {}))
    layout.tag(new, "a-amd64")
    return new


@pytest.mark.parametrize("media_type", TYPES)
def test_an_honest_image_has_no_problems(tmp_path: Path, media_type: str) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE, media_type=media_type)
    assert check_image(layout, descriptor) == []
    assert check_layout(layout.root) == []
    assert check_layout(layout.root, ["a-amd64"]) == []


def test_an_honest_index_over_two_architectures_has_no_problems(tmp_path: Path) -> None:
    layout, amd64 = image(tmp_path, GOOD)
    blobs = Blobs(tmp_path / "blobs")
    arm64 = put(layout, blobs, [blobs.add(tar(file("python", ARM64_ELF)))], name="a-arm64", arch="arm64")
    index = layout.put_index(name="a", manifests=[amd64, arm64])
    assert check_image(layout, index) == []
    assert check_layout(layout.root) == []


# the layout


def test_oci_layout_file_missing(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    (layout.root / "oci-layout").unlink()
    assert only(check_layout(layout.root)) == f"{layout.root}/oci-layout: No such file or directory"


@pytest.mark.parametrize("text", ['{"imageLayoutVersion":"2.0.0"}', "{}", "[]", "nonsense"])
def test_oci_layout_file_wrong(tmp_path: Path, text: str) -> None:
    layout, _ = image(tmp_path, GOOD)
    (layout.root / "oci-layout").write_text(text)
    assert only(check_layout(layout.root)).startswith(f"{layout.root}/oci-layout")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"manifests":1}',
        '{"manifests":[1]}',
        '{"manifests":[{}]}',
        '{"manifests":[{"digest":"x"}]}',
    ],
)
def test_index_json_malformed(tmp_path: Path, text: str) -> None:
    layout, _ = image(tmp_path, GOOD)
    layout.index_path.write_text(text)
    problem = only(check_layout(layout.root))
    assert "index.json" in problem or "malformed descriptor" in problem


def test_index_json_missing(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    layout.index_path.unlink()
    assert "has no index.json" in only(check_layout(layout.root))


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    assert only(check_layout(layout.root, ["b"])) == f"{layout.root}: index.json has no entry named b"


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    value = json.loads(layout.index_path.read_bytes())
    value["manifests"] *= 2
    layout.index_path.write_bytes(canonical_json(value))
    assert only(check_layout(layout.root)) == f"{layout.root}: index.json has 2 entries named a-amd64"


def test_an_unused_blob_must_be_whole_too(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    layout.write_bytes("x", b"unused")
    assert check_layout(layout.root) == []
    digest = Digest.of(b"another")
    layout.blob_path(digest).write_bytes(b"half of")
    assert str(digest) in only(check_layout(layout.root))
    assert check_layout(layout.root, ["a-amd64"]) == []


def test_a_stray_file_among_the_blobs(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    (layout.blobs / "core").write_bytes(b"")
    assert only(check_layout(layout.root)) == f"{layout.blobs}/core: not a blob"


# bytes, sizes, digests


@pytest.mark.parametrize("media_type", TYPES)
def test_flipped_byte_in_a_layer(tmp_path: Path, media_type: str) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE, media_type=media_type)
    layer = layout.manifest(descriptor).layers[1]
    data = bytearray(layout.open_blob(layer.digest).read())
    data[len(data) // 2] ^= 1
    overwrite(layout, layer.digest, bytes(data))
    problems = check_image(layout, descriptor)
    assert any(str(layer.digest) in p and "does not match its digest" in p for p in problems)
    assert all(str(layer.digest) in p for p in problems)


@pytest.mark.parametrize("change", [b"", b"short", None])
def test_a_layer_of_another_size(tmp_path: Path, change: bytes | None) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    layer = layout.manifest(descriptor).layers[0]
    data = layout.open_blob(layer.digest).read()
    overwrite(layout, layer.digest, data + b"\0" * 512 if change is None else change)
    assert any("as in its descriptor" in p and str(layer.digest) in p for p in check_image(layout, descriptor))


def test_missing_layer(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE)
    layer = layout.manifest(descriptor).layers[1]
    layout.blob_path(layer.digest).unlink()
    problem = only(check_image(layout, descriptor))
    assert f"cannot read blob {layer.digest}" in problem
    assert "layer 2" in problem


def test_wrong_size_in_the_layers_descriptor(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m["layers"][0].update(size=m["layers"][0]["size"] + 1))
    assert "in its descriptor" in only(check_image(layout, new))


def test_wrong_size_in_the_configurations_descriptor(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m["config"].update(size=1))
    assert "not 1 as in its descriptor" in only(check_image(layout, new))


def test_manifest_that_does_not_match_its_digest(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    data = layout.read_bytes(descriptor)
    overwrite(layout, descriptor.digest, data.replace(b'"schemaVersion":2', b'"schemaVersion":1'))
    problem = only(check_layout(layout.root))
    assert str(descriptor.digest) in problem
    assert "does not match its digest" in problem


def test_configuration_that_does_not_match_its_digest(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    config = layout.manifest(descriptor).config
    data = layout.read_bytes(config)
    overwrite(layout, config.digest, data.replace(b"/bin", b"/bim"))
    problem = only(check_image(layout, descriptor))
    assert str(config.digest) in problem
    assert "does not match its digest" in problem


def test_wrong_diff_id(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE)
    other = Digest.of(b"other")
    new = rewritten(layout, descriptor, config=lambda c: c["rootfs"]["diff_ids"].__setitem__(1, str(other)))
    problem = only(check_image(layout, new))
    assert f"not {other}" in problem
    assert str(layout.manifest(new).layers[1].digest) in problem


def lying_blob(tmp_path: Path, blob: bytes, media_type: str, data: bytes = GOOD) -> str:
    """The problem of an image whose layer is `blob`, all digests and sizes right, the diff id that of `data`."""
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    descriptor = put(layout, blobs, [blobs.add(data, media_type, blob=blob)])
    problem = only(check_image(layout, descriptor))
    assert Digest.of(blob).hex in problem
    return problem


def test_wrong_gzip_crc(tmp_path: Path) -> None:
    blob = compress(GOOD, MediaType.LAYER_GZIP)
    assert "CRC check failed" in lying_blob(tmp_path, blob[:-8] + b"1234" + blob[-4:], MediaType.LAYER_GZIP)


def test_wrong_gzip_length(tmp_path: Path) -> None:
    blob = compress(GOOD, MediaType.LAYER_GZIP)
    assert "Incorrect length" in lying_blob(tmp_path, blob[:-4] + b"1234", MediaType.LAYER_GZIP)


def test_wrong_crc_in_a_later_gzip_member(tmp_path: Path) -> None:
    one, two = compress(GOOD[:512], MediaType.LAYER_GZIP), compress(GOOD[512:], MediaType.LAYER_GZIP)
    assert "CRC check failed" in lying_blob(tmp_path, one + two[:-8] + b"1234" + two[-4:], MediaType.LAYER_GZIP)


@pytest.mark.parametrize("cut", [1, 5, 9, 50])
def test_truncated_gzip(tmp_path: Path, cut: int) -> None:
    assert "broken compressed data" in lying_blob(
        tmp_path, compress(GOOD, MediaType.LAYER_GZIP)[:-cut], MediaType.LAYER_GZIP
    )


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 50])
def test_truncated_zstd(tmp_path: Path, cut: int) -> None:
    problem = lying_blob(tmp_path, compress(GOOD)[:-cut], MediaType.LAYER_ZSTD)
    assert "inside a frame" in problem


def test_truncated_zstd_without_checksum(tmp_path: Path) -> None:
    big = tar(file("x", os.urandom(300_000)))
    blob = zstandard.ZstdCompressor(level=1, write_checksum=False).compress(big)
    assert "inside a frame" in lying_blob(tmp_path, blob[:-1], MediaType.LAYER_ZSTD, big)


def test_wrong_zstd_checksum(tmp_path: Path) -> None:
    blob = bytearray(compress(GOOD))
    blob[-1] ^= 1
    assert "checksum" in lying_blob(tmp_path, bytes(blob), MediaType.LAYER_ZSTD)


@pytest.mark.parametrize("media_type", TYPES[:2])
def test_bytes_after_the_compressed_stream(tmp_path: Path, media_type: str) -> None:
    assert "broken compressed data" in lying_blob(tmp_path, compress(GOOD, media_type) + b"garbage garbage", media_type)


@pytest.mark.parametrize("media_type", TYPES[:2])
def test_an_empty_or_foreign_blob(tmp_path: Path, media_type: str) -> None:
    for number, blob in enumerate((b"", GOOD, compress(GOOD, TYPES[media_type == TYPES[0]]))):
        layout, blobs = Layout(tmp_path / f"{number}"), Blobs(tmp_path / "blobs")
        descriptor = put(layout, blobs, [blobs.add(GOOD, media_type, blob=blob)])
        assert check_image(layout, descriptor), blob[:4]


@pytest.mark.parametrize(
    "blob",
    [
        b"".join(compress(GOOD[i : i + 700]) for i in range(0, len(GOOD), 700)),
        b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + compress(GOOD),  # a skippable frame first
        zstandard.ZstdCompressor(level=1, write_content_size=False).compress(GOOD),
        zstandard.ZstdCompressor(level=19, write_checksum=True).compress(GOOD),
    ],
    ids=["many frames", "skippable frame", "no content size", "level 19"],
)
def test_every_kind_of_whole_zstd_passes(tmp_path: Path, blob: bytes) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    assert check_image(layout, put(layout, blobs, [blobs.add(GOOD, blob=blob)])) == []


def test_a_gzip_member_for_every_few_bytes_passes(tmp_path: Path) -> None:
    blob = b"".join(compress(GOOD[i : i + 100], MediaType.LAYER_GZIP) for i in range(0, len(GOOD), 100))
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    assert check_image(layout, put(layout, blobs, [blobs.add(GOOD, MediaType.LAYER_GZIP, blob=blob)])) == []


def test_unknown_layer_type(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m["layers"][0].update(mediaType="application/x-tar"))
    assert "application/x-tar is not a known layer type" in only(check_image(layout, new))


def test_zstd_bytes_under_a_gzip_type(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m["layers"][0].update(mediaType=MediaType.LAYER_GZIP))
    assert "broken compressed data" in only(check_image(layout, new))


# manifest, index and configuration against each other


def test_platform_that_differs_from_the_configuration(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    wrong = dataclasses.replace(descriptor, platform=Platform(architecture="arm64"))
    layout.tag(wrong, "a-amd64")
    assert "the descriptor has linux/arm64, the configuration linux/amd64" in only(check_layout(layout.root))


def test_platform_in_an_index_that_differs_from_the_configuration(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    wrong = dataclasses.replace(descriptor, platform=Platform(architecture="arm64"))
    index = layout.put_index(name="a", manifests=[wrong])
    assert "the descriptor has linux/arm64" in only(check_image(layout, index))


def test_programs_of_another_architecture_than_the_image_claims(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("python", ARM64_ELF)))
    assert only(check_image(layout, descriptor)).endswith("'python' is for arm64, the image for linux/amd64")


def test_configuration_without_a_platform(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    new = rewritten(layout, descriptor, config=lambda c: c.pop("architecture"))
    assert any("has no platform" in p for p in check_image(layout, new))


def test_history_that_does_not_count_the_layers(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE)
    new = rewritten(layout, descriptor, config=lambda c: c["history"].pop())
    assert "2 layers, but 1 history entries that make a layer" in only(check_image(layout, new))


def test_history_entries_without_a_layer_do_not_count(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(
        layout, descriptor, config=lambda c: c["history"].append({"created_by": "ENV", "empty_layer": True})
    )
    assert check_image(layout, new) == []


def test_fewer_diff_ids_than_layers(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD, MORE)
    new = rewritten(layout, descriptor, config=lambda c: c["rootfs"]["diff_ids"].pop())
    assert "2 layers, but the configuration has 1 diff ids" in only(check_image(layout, new))


def test_root_file_system_of_another_type(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, config=lambda c: c["rootfs"].update(type="plain"))
    assert "rootfs.type is 'plain'" in only(check_image(layout, new))


@pytest.mark.parametrize("key", ["rootfs", "history", "config"])
def test_malformed_configuration(tmp_path: Path, key: str) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, config=lambda c: c.update({key: ["x"]}))
    assert "malformed image configuration" in only(check_image(layout, new))


def test_manifest_of_another_schema_and_type(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m.update(schemaVersion=1, mediaType=MediaType.INDEX))
    schema, kind = check_image(layout, new)
    assert "schemaVersion is 1, not 2" in schema
    assert "has mediaType application/vnd.oci.image.index.v1+json" in kind


def test_malformed_manifest(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m.update(layers=["x"]))
    assert "malformed" in only(check_image(layout, new))


def test_configuration_of_another_type(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    new = rewritten(layout, descriptor, manifest=lambda m: m["config"].update(mediaType="text/plain"))
    assert "the configuration has media type text/plain" in only(check_image(layout, new))


def test_index_with_one_platform_twice(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    entry = dataclasses.replace(descriptor).to_json()
    value = {"schemaVersion": 2, "mediaType": MediaType.INDEX, "manifests": [entry, entry]}
    index = layout.write_bytes(MediaType.INDEX, canonical_json(value))
    assert "has 2 entries for linux/amd64" in only(check_image(layout, index))


def test_index_whose_manifest_is_missing(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, GOOD)
    index = layout.put_index(name="a", manifests=[descriptor])
    layout.blob_path(descriptor.digest).unlink()
    assert str(descriptor.digest) in only(check_image(layout, index))


def test_something_that_is_no_image(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    layout.tag(layout.write_bytes("text/plain", b"hello"), "b")
    assert "has media type text/plain" in only(check_layout(layout.root))


def test_what_travels_beside_an_image_is_checked_by_digest_alone(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, GOOD)
    empty = layout.write_bytes("application/vnd.oci.empty.v1+json", b"{}")
    sbom = layout.write_bytes("application/vnd.cyclonedx+json", b'{"sbom":1}')
    value = {"schemaVersion": 2, "mediaType": MediaType.MANIFEST, "config": empty.to_json(), "layers": [sbom.to_json()]}
    layout.tag(layout.write_bytes(MediaType.MANIFEST, canonical_json(value)), "sbom")
    assert check_layout(layout.root) == []
    overwrite(layout, sbom.digest, b'{"sbom":2}')
    assert str(sbom.digest) in only(check_layout(layout.root))


# entries


def entries(tmp_path: Path, *members: Member, **options: Any) -> list[str]:
    layout, descriptor = image(tmp_path, tar(*members))
    return check_image(layout, descriptor, **options)


BAD_ENTRIES = {
    "dot dot": (file("../x"), "'../x' has a name that escapes with `..`"),
    "dot dot inside": (file("a/../../x"), "'a/../../x' has a name that escapes with `..`"),
    "absolute": (file("/etc/passwd"), "'/etc/passwd' has an absolute name"),
    "absolute through pax": (Member(name="x", pax=(("path", "/etc/x"),)), "'/etc/x' has an absolute name"),
    "hard link out": (hard_link("a", "../../etc/shadow"), "whose target '../../etc/shadow' has a name that escapes"),
    "hard link absolute": (hard_link("a", "/etc/shadow"), "whose target '/etc/shadow' has an absolute name"),
    "hard link to nothing": (hard_link("a", "b"), "hard link to 'b', which is not a file in this layer or below"),
    "symlink out": (symlink("usr/a", "../../etc"), "'usr/a' is a symlink that climbs above the root: '../../etc'"),
    "character device": (Member(name="dev/null", kind=tarfile.CHRTYPE), "'dev/null' is a device node"),
    "block device": (Member(name="dev/sda", kind=tarfile.BLKTYPE), "'dev/sda' is a device node"),
    "fifo": (Member(name="run/x", kind=tarfile.FIFOTYPE), "'run/x' is a FIFO"),
    "unknown type": (Member(name="x", kind=b"7"), "'x' is an entry of unknown type"),
    "setuid": (file("bin/x", mode=0o4755), "'bin/x' is setuid (mode 4755)"),
    "setgid": (file("bin/x", mode=0o2755), "'bin/x' is setgid (mode 2755)"),
    "capabilities": (
        Member(name="bin/x", pax=((CAPABILITY, capability("cap_net_raw,cap_sys_admin+ep").decode()),)),
        "'bin/x' carries file capabilities (cap_sys_admin)",
    ),
    "malformed capabilities": (
        Member(name="bin/ping", pax=((CAPABILITY, "x"),)),
        "'bin/ping' carries malformed file capabilities: 1 bytes",
    ),
    "symlink for the root": (symlink("./", "x"), "in place of the root directory"),
    "whiteout of the parent": (file("a/.wh..."), "'a/.wh...' is a whiteout that does not name an entry of"),
    "whiteout of nothing": (file("a/.wh."), "is a whiteout that does not name an entry of its directory"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entry(tmp_path: Path, case: str) -> None:
    member, expected = BAD_ENTRIES[case]
    problem = only(entries(tmp_path, member))
    assert expected in problem
    assert "layer " in problem


def test_duplicate_entry_in_one_layer(tmp_path: Path) -> None:
    assert "'./a/b' appears twice in the layer" in only(entries(tmp_path, file("a/b"), file("./a/b", b"other")))


def test_the_same_entry_in_two_layers_is_fine(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(file("a", b"new")))
    assert check_image(layout, descriptor) == []


def test_hard_link_to_a_directory(tmp_path: Path) -> None:
    assert "is a hard link to the directory 'd'" in only(entries(tmp_path, folder("d"), hard_link("a", "d")))


def test_hard_link_into_a_lower_layer_is_fine(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(hard_link("b", "a")))
    assert check_image(layout, descriptor) == []


def test_hard_link_to_what_a_whiteout_removed(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("d/a")), tar(file("d/.wh..wh..opq", b""), hard_link("b", "d/a")))
    assert "is a hard link to 'd/a'" in only(check_image(layout, descriptor))


@pytest.mark.parametrize("above", [file("a"), symlink("a", "b")])
def test_entry_below_a_file_or_symlink_of_the_same_layer(tmp_path: Path, above: Member) -> None:
    assert "'a/x' is below 'a'" in only(entries(tmp_path, above, file("a/x")))


def test_entry_below_a_symlink_of_a_lower_layer(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(symlink("lib", "usr/lib")), tar(file("lib/x.so")))
    assert "'lib/x.so' is below 'lib', which is a symlink in a lower layer" in only(check_image(layout, descriptor))


def test_directory_over_a_symlink_of_a_lower_layer(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(symlink("lib", "usr/lib")), tar(folder("lib"), file("lib/x.so")))
    assert "directory 'lib' replaces a symlink of a lower layer" in only(check_image(layout, descriptor))


def test_directory_over_a_symlink_that_a_whiteout_removed_is_fine(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(symlink("lib", "usr/lib")), tar(file(".wh.lib", b"")), tar(folder("lib")))
    assert check_image(layout, descriptor) == []


def test_debians_own_setuid_programs_are_known(tmp_path: Path) -> None:
    assert entries(tmp_path, file("usr/bin/su", mode=0o4755), folder("var/local", mode=0o2775)) == []


def test_what_may_be_setuid_is_the_callers_choice(tmp_path: Path) -> None:
    assert entries(tmp_path, file("opt/x", mode=0o4755), allow_setuid=frozenset({"opt/x"})) == []


def test_without_an_allowance_su_is_a_problem(tmp_path: Path) -> None:
    problem = only(entries(tmp_path, file("usr/bin/su", mode=0o4755), allow_setuid=frozenset()))
    assert "'usr/bin/su' is setuid" in problem


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_non_ascii_names_are_read_whole(tmp_path: Path, style: int) -> None:
    name = "ü/" + "long/" * 60 + "x"
    data = tar(file(name), hard_link("y", name), symlink("z", "w" * 200), layout=style)
    layout, descriptor = image(tmp_path, data)
    assert check_image(layout, descriptor) == []


# the tar itself


def broken_tar(tmp_path: Path, data: bytes) -> str:
    layout, descriptor = image(tmp_path, data)
    return only(check_image(layout, descriptor))


def test_tar_header_with_a_wrong_checksum(tmp_path: Path) -> None:
    assert "broken tar header" in broken_tar(tmp_path, b"X" + GOOD[1:])


def test_tar_that_ends_inside_a_file(tmp_path: Path) -> None:
    data = tar(file("x", b"1" * 4000))
    assert "before the end of an entry's content" in broken_tar(tmp_path, data[: 512 + 1000])


def test_tar_that_ends_inside_a_header(tmp_path: Path) -> None:
    assert "ends inside a header" in broken_tar(tmp_path, GOOD[:700])


def test_tar_without_its_end_blocks(tmp_path: Path) -> None:
    assert "no end-of-archive blocks" in broken_tar(tmp_path, tar(file("x", b""))[:512])


def test_tar_with_one_end_block(tmp_path: Path) -> None:
    assert "one end-of-archive block" in broken_tar(tmp_path, tar(file("x", b""))[:1024])


def test_data_hidden_after_the_end_of_the_tar(tmp_path: Path) -> None:
    assert "data after the end of the tar" in broken_tar(tmp_path, GOOD + tar(file("hidden")))


def test_link_with_a_body(tmp_path: Path) -> None:
    problem = broken_tar(tmp_path, tar(Member(name="x", kind=tarfile.SYMTYPE, target="y", pax=(("size", "512"),))))
    assert "'x' has a size of 512" in problem


def test_sparse_file(tmp_path: Path) -> None:
    problem = broken_tar(tmp_path, tar(Member(name="x", pax=(("GNU.sparse.major", "1"),))))
    assert "'x' is sparse" in problem


@pytest.mark.parametrize(
    "record", [b"11 path=x", b"99 path=x\n", b"path=x\n", b"0 path=x\n", b"5 path=x\n", b"8 pathx\n"]
)
def test_malformed_pax_record(tmp_path: Path, record: bytes) -> None:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    data = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tar(file("x"))
    assert "malformed pax header" in broken_tar(tmp_path, data)


def test_huge_pax_header_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    assert "an extended header of 1073741824 bytes" in broken_tar(tmp_path, info.tobuf(tarfile.USTAR_FORMAT))


def test_all_problems_of_an_image_come_at_once(tmp_path: Path) -> None:
    problems = entries(tmp_path, file("../a"), file("b", mode=0o4755), hard_link("c", "/x"))
    assert len(problems) == 3


def test_one_fault_in_a_shared_layer_is_reported_once(tmp_path: Path) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    layer = blobs.add(tar(file("../x")))
    put(layout, blobs, [layer], name="a-amd64")
    put(layout, blobs, [layer, blobs.add(MORE)], name="b-amd64")
    assert "'../x'" in only(check_layout(layout.root))


def test_configuration_and_layers_are_those_of_the_same_image(tmp_path: Path) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    first = put(layout, blobs, [blobs.add(GOOD)], name="a-amd64")
    second = put(layout, blobs, [blobs.add(MORE)], name="b-amd64")
    other = layout.manifest(second).config.to_json()
    swapped = rewritten(layout, first, manifest=lambda m: m.update(config=other))
    assert "as in the configuration" in only(check_image(layout, swapped))
    assert config_of([]).platform.architecture == "amd64"


def test_an_index_without_images_is_a_problem(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, tar(file("a")))
    layout.tag(layout.write_bytes(MediaType.INDEX, canonical_json(Index(manifests=()).to_json())), "empty")
    (problem,) = check_layout(layout.root, ["empty"])
    assert re.fullmatch(r"index [0-9a-f]{12} lists no images", problem)
