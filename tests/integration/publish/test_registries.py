"""Two implementations of a registry, with and without the referrers API, over TLS, and with somebody at the door."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.console.progress import Silent
from buildctl.oci.layout import Layout
from buildctl.publish.diff import difference, from_registry
from buildctl.publish.publish import PublishOptions, promote
from buildctl.publish.rebase import _rebase
from buildctl.publish.verify import verify
from buildctl.registry.auth import Credentials
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.problems import RefusedError
from buildctl.registry.pull import pull
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import document, fallback_tag, referrers
from buildctl.registry.transport import Transport
from buildctl.testing.merge import REPORT_KIND, report_bytes
from buildctl.testing.report import Report, Status
from tests.conftest import Ran, buildctl
from tests.support.engine import Unavailable, program
from tests.support.images import file, put, tar
from tests.support.projects import Small, small
from tests.support.publishing import PATIENCE, outcomes, platforms, push, repository
from tests.support.registry import PASSWORD, USER, Fault, Proxy, crane_registry, docker_registry, proxy
from tests.support.tls import Authority, authority

REGISTRIES = {"docker-registry": docker_registry, "crane": crane_registry}


@pytest.fixture(scope="module", params=REGISTRIES)
def upstream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with REGISTRIES[request.param](tmp_path_factory.mktemp("registry")) as netloc:
        yield netloc


# what people do with a registry, on each


def test_published_pulled_back_and_published_again(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request, chunk=65_536)
    assert push(project, to).exit_code == 0
    for cell in project.cells():
        back = Layout(tmp_path / cell.arch)
        found = pull(to, "2.6", arch=cell.arch, layout=back, name="x", progress=Silent())
        assert found.digest == project.layout.resolve(cell.id).digest
    front.seen.clear()
    assert [image.sent for image in push(project, to).images] == [0, 0]
    assert front.writes() == []


def test_only_what_is_new_moves_after_a_rebase(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to, cell = repository(front, request), project.cell("cpu-2.6-arm64")
    before = project.layout.manifest(project.layout.resolve(cell.id))
    bases = [project.shared, project.blobs.add(tar(file("shared", os.urandom(100_000))))]
    old, new = (put(project.layout, project.blobs, [layer], name="base", arch="arm64") for layer in bases)
    push(project, to, cell.id)
    front.seen.clear()
    after = project.layout.manifest(_rebase(project.layout, cell, old, new).after)
    report = len(report_bytes(project.report(cell.id)))
    result = push(project, to, cell.id)
    fresh = after.layers[0].size + after.config.size
    assert result.images[0].sent == front.blob_bytes() == fresh + report
    assert (after.layers[1], after.layers[0] == before.layers[0]) == (before.layers[1], False)
    assert outcomes(result)["cpu-2.6"] == "MOVED"


def test_builders_push_a_last_job_promotes_and_anybody_verifies(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    for cell in project.cells():
        push(project, to, cell.id, revision="r1", tags="immutable")
    assert to.head("2.6") is None
    elsewhere = small(tmp_path / "elsewhere")
    assert (
        promote(elsewhere.project, elsewhere.pinned, elsewhere.cells(), to, PublishOptions(revision="r1")).exit_code
        == 0
    )
    assert platforms(to, "2.6") == {c.platform: project.layout.resolve(c.id).digest for c in project.cells()}
    tagged = replace(to, reference=to.reference.tagged("2.6"))
    for found in verify(tagged, arch=None, scratch=tmp_path, progress=Silent()):
        said = {finding.name: finding.status for finding in found.findings}
        assert (said["layers"], said["report"]) == (Status.PASSED, Status.PASSED)


def test_two_published_images_are_compared(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to, "cpu-2.6-arm64", revision="a")
    labels = {"dev.buildctl.torch": "2.6.0", "new": "yes"}
    project.build("cpu-2.6-arm64", labels=labels)
    push(project, to, "cpu-2.6-arm64", revision="b")
    sides = [replace(to, reference=to.reference.tagged(f"2.6.0-cpu-py3.13-arm64-{r}")) for r in ("a", "b")]
    found = difference(*(from_registry(side, "arm64") for side in sides))
    assert [change.line() for change in found.configuration] == ["+ label new yes"]
    assert found.shared == project.shared.descriptor.size


# the referrers API


@pytest.mark.parametrize("api", [True, False], ids=["api", "no api"])
def test_the_fallback_tag_is_only_for_registries_that_need_it(
    api: bool, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.referrers = {} if api else None
    to = repository(front, request)
    push(project, to, "cpu-2.6-arm64")
    image = project.layout.resolve("cpu-2.6-arm64")
    assert (fallback_tag(image.digest) in to.tags()) is not api
    (found,) = referrers(to, image.digest, REPORT_KIND)
    assert Report.from_json(json.loads(document(to, found))).digest == image.digest
    front.seen.clear()
    push(project, to, "cpu-2.6-arm64")
    assert front.writes() == []
    assert [kind for kind, _ in discovered(to, str(image.digest), api=api)] == [REPORT_KIND]


def test_what_oras_attaches_is_seen(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    front.referrers = {}
    to = repository(front, request)
    push(project, to, "cpu-2.6-arm64")
    image = project.layout.resolve("cpu-2.6-arm64")
    (tmp_path / "note.txt").write_text("seen")
    target = f"{to.reference.name}@{image.digest}"
    oras("attach", "--artifact-type", "application/x-note", target, "note.txt:text/plain", cwd=tmp_path)
    (found,) = referrers(to, image.digest, "application/x-note")
    assert document(to, found) == b"seen"
    assert len(referrers(to, image.digest)) == 2


def oras(*argv: str, cwd: Path | None = None) -> str:
    try:
        path = program("oras")
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    command, *rest = argv
    done = subprocess.run(
        [path, command, "--plain-http", *rest], cwd=cwd, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def discovered(to: Repository, digest: str, *, api: bool) -> list[tuple[str, str]]:
    """Artifact type and digest, as somebody else's client finds them."""
    how = "v1.1-referrers-api" if api else "v1.1-referrers-tag"
    answer = json.loads(
        oras("discover", "--distribution-spec", how, "--format", "json", f"{to.reference.name}@{digest}")
    )
    rows = answer.get("referrers") or answer.get("manifests") or []
    return [(row["artifactType"], row["digest"]) for row in rows]


# TLS: who signed the registry's certificate decides


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"), client=True)


@pytest.fixture(scope="module")
def secure(signed: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that speaks TLS and wants a password."""
    plain = replace(signed, client=None)
    with docker_registry(tmp_path_factory.mktemp("secure"), authority=plain, password=True) as netloc:
        yield netloc


@pytest.fixture
def user(tmp_path: Path, secure: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who is logged in to `secure` through a credential helper and trusts nobody special."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    (home / ".docker").mkdir(parents=True)
    tools.mkdir()
    helper = tools / "docker-credential-test"
    helper.write_text(f'#!/bin/sh\ngrep -q . && echo \'{{"Username":"{USER}","Secret":"{PASSWORD}"}}\'\n')
    helper.chmod(0o755)
    (home / ".docker/config.json").write_text(json.dumps({"credHelpers": {secure: "test"}}))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    return home


def published(project: Small, registry: str, name: str) -> Ran:
    argv = ["publish", "cpu-2.6", "--to", f"{registry}/{name}", "--no-sbom", "--json"]
    return buildctl(*argv, cwd=project.project.root)


@pytest.mark.parametrize("how", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "docker", "containers"])
def test_a_registry_of_ones_own_authority_is_trusted_when_asked_to(
    how: str, project: Small, secure: str, signed: Authority, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how.isupper():
        monkeypatch.setenv(how, str(signed.ca))
    else:
        folder = user / ".config" / how / "certs.d" / secure
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(signed.ca.read_bytes())
    done = published(project, secure, how.lower().replace("_", "-"))
    assert done.returncode == 0, done.stderr
    assert {t["tag"]: t["outcome"] for t in json.loads(done.stdout)["tags"]}["cpu-2.6"] == "new"


@pytest.mark.usefixtures("user")
def test_a_registry_of_an_unknown_authority_is_one_clear_error(
    project: Small, secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        done = published(project, secure, "x")
        assert (done.returncode, json.loads(done.stdout)["error"]["exitCode"]) == (12, 12)
        assert done.stderr.count("error:") == 1
        return " ".join(done.stderr.split())

    said = refused()
    assert f"{secure}: its certificate is not trusted" in said
    assert "REQUESTS_CA_BUNDLE or SSL_CERT_FILE" in said
    assert f"/etc/docker/certs.d/{secure}/ca.crt" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(authority(tmp_path / "other").ca))
    assert "not trusted" in refused()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "CA bundle not found" in refused()


@pytest.mark.usefixtures("user")
def test_a_certificate_for_another_name_is_refused(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = authority(tmp_path / "ca", names="subjectAltName=DNS:registry.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.ca))
    with proxy(upstream, other) as front, pytest.raises(RefusedError, match=r"not trusted.*127\.0\.0\.1"):
        secured(front.netloc).ping()


def test_a_registry_may_want_the_clients_certificate(signed: Authority, user: Path, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", authority=signed) as netloc:
        folder = user / ".config/docker/certs.d" / netloc
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(signed.ca.read_bytes())
        with pytest.raises(RefusedError, match="rejects our client certificate"):
            secured(netloc).ping()
        assert signed.client is not None
        (folder / "me.cert").write_bytes(signed.client.read_bytes())
        (folder / "me.key").write_bytes(signed.client.with_suffix(".key").read_bytes())
        secured(netloc).ping()
        (folder / "me.key").write_text("no key")
        with pytest.raises(RefusedError, match=r"me\.cert is not a usable certificate"):
            secured(netloc)


def secured(netloc: str) -> Repository:
    transport = Transport(netloc, plain_http=False, patience=PATIENCE, credentials=lambda _: None)
    return Repository(reference=Reference(registry=netloc, repository="x"), transport=transport)


def test_a_registry_without_tls_is_said_to_have_none(upstream: str) -> None:
    with pytest.raises(RefusedError, match="does not use TLS") as caught:
        secured(upstream).ping()
    assert "--plain-http" in (caught.value.hint or "")


FAULTS = {
    "a cut connection": Fault(when=lambda m, p: m in {"PATCH", "PUT"} and "/uploads/" in p, cut=20_000),
    "an answer that never comes": Fault(when=lambda m, p: m == "PUT", drop=True),
    "a blob that breaks off": Fault(when=lambda m, p: m == "GET" and "/blobs/" in p, truncate=5_000),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("basic", [False, True], ids=["bearer", "basic"])
def test_a_fault_behind_tls_and_a_password_is_survived(
    basic: bool,
    fault: Fault,
    project: Small,
    upstream: str,
    signed: Authority,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(signed.ca))
    with proxy(upstream, signed) as front:
        front.users, front.basic, front.faults = {USER: PASSWORD}, basic, [replace(fault, met=0)]
        to = repository(front, request, chunk=65_536)
        to.transport.credentials = lambda _: Credentials(username=USER, password=PASSWORD)
        push(project, to, "cpu-2.6-arm64")
        back = Layout(tmp_path / "back")
        found = pull(to, "cpu-2.6", arch="arm64", layout=back, name="x", progress=Silent())
        assert front.faults[0].met == 1, "the fault did not happen"
        assert found.digest == project.layout.resolve("cpu-2.6-arm64").digest


@pytest.mark.usefixtures("user")
def test_a_wrong_password_over_tls_says_to_log_in(
    secure: str, signed: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(signed.ca))
    wrong = Transport(secure, patience=PATIENCE, credentials=lambda _: Credentials(username=USER, password="wrong"))
    with pytest.raises(RefusedError) as caught:
        wrong.send("GET", "/v2/", what="x")
    assert f"docker login {secure}" in (caught.value.hint or "")


@pytest.mark.usefixtures("user")
def test_tls_on_this_machine_is_found_without_being_asked_for(
    secure: str, signed: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first question is a HEAD, whose answer has no words."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(signed.ca))
    assert open_repository(Reference(registry=secure, repository="x")).head("nothing") is None
