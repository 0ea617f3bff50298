from __future__ import annotations

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.registry.reference import Reference, is_loopback, leads_inside

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("localhost:5000/pytorch", "localhost:5000", "pytorch", "", None),
        ("localhost/pytorch:cpu-2.6", "localhost", "pytorch", "cpu-2.6", None),
        ("registry.example/a/b:x", "registry.example", "a/b", "x", None),
        (f"registry.example/a:x@sha256:{HEX}", "registry.example", "a", "x", Digest(HEX)),
        ("[::1]:5000/a", "[::1]:5000", "a", "", None),
        ("team/pytorch", "docker.io", "team/pytorch", "", None),
        ("python:3.13-slim", "docker.io", "library/python", "3.13-slim", None),
        ("docker://registry.example/a", "registry.example", "a", "", None),
    ],
)
def test_references_are_read_as_docker_reads_them(
    text: str, registry: str, repository: str, tag: str, digest: Digest | None
) -> None:
    expected = Reference(registry=registry, repository=repository, tag=tag, digest=digest)
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "registry.example/", "registry.example/UPPER", "registry.example/a:", "registry.example/a@sha256:12",
     "registry.example/a b", "registry.example/../a", "-bad.example/a", "registry.example/a:b:c", f"x.y/a@md5:{HEX}"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(BuildctlError, match="not an image reference"):
        Reference.parse(text)


def test_a_place_to_publish_to_has_no_tag() -> None:
    with pytest.raises(BuildctlError, match="has a tag"):
        Reference.parse_repository("localhost:5000/pytorch:cpu-2.6")


@pytest.mark.parametrize(
    ("registry", "expected"),
    [("localhost:5000", True), ("127.0.0.1:1", True), ("127.8.9.1", True), ("[::1]:5000", True), ("a.localhost", True),
     ("192.168.0.1:5000", False), ("registry.example", False), ("localhost.example:5000", False), ("[::2]", False)],
)  # fmt: skip
def test_plain_http_is_only_for_this_machine(registry: str, expected: bool) -> None:
    assert is_loopback(registry) is expected


@pytest.mark.parametrize(
    ("registry", "host", "inside"),
    [
        ("93.184.216.34:5000", "169.254.169.254", True),
        ("93.184.216.34", "10.0.0.1", True),
        ("93.184.216.34", "127.0.0.1", True),
        ("93.184.216.34", "localhost", True),
        ("93.184.216.34", "::1", True),
        ("93.184.216.34", "[::ffff:10.0.0.1]", True),
        ("93.184.216.34", "0.0.0.0", True),
        ("93.184.216.34", "127.1", True),
        ("93.184.216.34", "2130706433", True),
        ("93.184.216.34", "0xa9fea9fe", True),
        ("93.184.216.34", "localhost.", True),
        ("93.184.216.34", "1572395043", False),
        ("93.184.216.34", "93.184.216.35", False),
        ("93.184.216.34", "cdn.example", False),
        ("10.0.0.2:5000", "10.0.0.1", False),
        ("localhost:5000", "127.0.0.1", False),
        ("[::1]:5000", "127.0.0.1", False),
    ],
)
def test_a_registry_elsewhere_does_not_lead_inside(registry: str, host: str, inside: bool) -> None:
    assert leads_inside(registry, host) is inside
