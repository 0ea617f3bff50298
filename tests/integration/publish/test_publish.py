"""Publishing to a real registry (Debian's docker-registry), through a proxy that counts and fails on demand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.console.progress import Silent
from buildctl.ground.errors import BuildctlError
from buildctl.oci.check import check_image
from buildctl.oci.image import Descriptor, Index, MediaType, canonical_json
from buildctl.oci.layout import Layout
from buildctl.publish.move import TagOutcome
from buildctl.publish.publish import PublishOptions, promote
from buildctl.registry.auth import Credentials
from buildctl.registry.bases import base_from_registry
from buildctl.registry.client import Repository
from buildctl.registry.problems import RefusedError, RegistryError, UnavailableError
from buildctl.registry.pull import pull
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import document, referrers
from buildctl.registry.transport import Transport
from buildctl.testing.merge import REPORT_KIND
from buildctl.testing.report import Report, Status
from tests.support.projects import Small, small
from tests.support.publishing import PATIENCE, outcomes, platforms, push, repository, skopeo
from tests.support.registry import PASSWORD, USER, Fault, Proxy


def test_tags_of_both_architectures_and_the_universal_one(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    result = push(project, to)
    assert result.exit_code == 0
    assert {tag.outcome for tag in result.tags} == {TagOutcome.CREATED}
    cuda, cpu = (project.layout.resolve(f"{n}") for n in ("cuda-2.6-amd64", "cpu-2.6-arm64"))
    assert platforms(to, "2.6") == {"linux/amd64": cuda.digest, "linux/arm64": cpu.digest}
    assert platforms(to, "cuda-2.6") == platforms(to, "2.6-cuda12.4") == {"linux/amd64": cuda.digest}
    assert platforms(to, "cpu-2.6") == platforms(to, "2.6-cpu") == {"linux/arm64": cpu.digest}
    assert to.manifest(f"2.6.0-cpu-py3.13-arm64-{cpu.digest.short}").descriptor.digest == cpu.digest
    for arch, expected in {"amd64": cuda, "arm64": cpu}.items():  # what somebody else's client makes of the tag
        target = f"oci:{tmp_path / arch}:x"
        skopeo("copy", "--src-tls-verify=false", f"--override-arch={arch}", f"docker://{to.reference}:2.6", target)
        assert Layout(tmp_path / arch).resolve("x").digest == expected.digest


def test_publishing_again_writes_nothing(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to)
    front.seen.clear()
    again = push(project, to)
    assert {tag.outcome for tag in again.tags} == {TagOutcome.UNCHANGED}
    assert [p.sent for p in again.images] == [0, 0]
    assert front.writes() == []


def test_a_second_image_moves_only_its_own_layer(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to, tags="none")
    front.seen.clear()
    changed = project.layout.manifest(project.build("cuda-2.6-amd64"))
    result = push(project, to, "cuda-2.6-amd64", tags="none")
    own = changed.config.size + changed.layers[1].size
    assert (front.blob_bytes(), result.images[0].sent) == (own, own)


def test_layers_are_mounted_from_a_repository_beside(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    push(project, repository(front, request), tags="none")
    front.seen.clear()
    beside = replace(
        repository(front, request, name="beside"), mount_from=(repository(front, request).reference.repository,)
    )
    result = push(project, beside, tags="none")
    # the report is a document of its own and small; no layer and no configuration is among what was sent
    assert [p.new for p in result.images] == [0, 0]
    assert sum(p.mounted for p in result.images) == 5
    assert front.blob_bytes() < 2000


def opened_sessions(front: Proxy) -> list[str]:
    return [e.path for e in front.seen if e.method == "POST" and e.path.partition("?")[0].endswith("/blobs/uploads/")]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_mount_that_is_refused_becomes_an_upload(
    status: int, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.faults = [Fault(when=lambda m, p: m == "POST" and "mount=" in p, times=999, status=status)]
    to = replace(repository(front, request), mount_from=("somebody/else", "somebody/more"))
    result = push(project, to, "cpu-2.6-arm64", tags="none")
    assert [p.mounted for p in result.images] == [0]
    assert result.images[0].new > 0


def test_a_session_that_a_mount_opened_is_used(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    """202: the registry has nothing to mount there, or does not mount, and waits for the bytes."""
    to = replace(repository(front, request), mount_from=("somebody/else",))
    push(project, to, "cpu-2.6-arm64", tags="none")
    sessions = opened_sessions(front)
    assert sessions
    assert all("mount=" in path for path in sessions)
    assert len(sessions) == len({path.partition("mount=")[2] for path in sessions})


def test_a_token_for_two_repositories_is_asked_for_to_mount_only(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.users = {USER: PASSWORD}
    known = Transport(
        front.netloc, patience=PATIENCE, credentials=lambda _: Credentials(username=USER, password=PASSWORD)
    )
    to = replace(repository(front, request), transport=known, mount_from=("somebody/else",))
    push(project, to, "cpu-2.6-arm64", tags="none")
    own = f"repository:{to.reference.repository}:pull,push"
    assert set(front.tokens.values()) == {own, f"{own} repository:somebody/else:pull"}


def test_a_dry_run_writes_nothing_and_says_what_would_be_sent(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    said = push(project, to, dry_run=True)
    assert front.writes() == []
    assert {tag.outcome for tag in said.tags} == {TagOutcome.CREATED}
    layers = {d.digest: d.size for c in project.cells() for d in _blobs(project, c.id)}
    assert sum(p.sent for p in said.images) == sum(layers.values())


def _blobs(project: Small, cell_id: str) -> tuple[Descriptor, ...]:
    manifest = project.layout.manifest(project.layout.resolve(cell_id))
    return (manifest.config, *manifest.layers)


# the gate


def test_a_moving_tag_never_points_at_what_failed(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to)
    good = platforms(to, "cpu-2.6")
    bad = project.build("cpu-2.6-arm64")
    project.report("cpu-2.6-arm64", devices=Status.FAILED)
    result = push(project, to, "cpu-2.6-arm64")
    assert result.exit_code == 1
    assert outcomes(result)["cpu-2.6"] == outcomes(result)["2.6"] == "REFUSED"
    assert platforms(to, "cpu-2.6") == good
    assert to.manifest(f"2.6.0-cpu-py3.13-arm64-{bad.digest.short}").descriptor.digest == bad.digest


def test_a_report_about_another_digest_does_not_count(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    project.build("cpu-2.6-arm64")  # after it was tested
    result = push(project, repository(front, request), "cpu-2.6-arm64")
    reasons = {tag.name: tag.reason for tag in result.tags}
    assert "run `buildctl test` again" in reasons["cpu-2.6"]


def test_not_run_has_to_be_allowed_by_name(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    project.report("cpu-2.6-arm64", gpu=Status.NOT_RUN)
    to = repository(front, request)
    assert outcomes(push(project, to, "cpu-2.6-arm64"))["cpu-2.6"] == "REFUSED"
    allowed = push(project, to, "cpu-2.6-arm64", allow_not_run=frozenset({"gpu"}))
    assert outcomes(allowed)["cpu-2.6"] == "CREATED"


def test_an_index_waits_for_its_other_architecture_and_then_keeps_it(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    assert outcomes(push(project, to, "cpu-2.6-arm64"))["2.6"] == "WAITING"
    assert to.head("2.6") is None
    push(project, to)
    newer = project.build("cpu-2.6-arm64")
    project.report("cpu-2.6-arm64")
    assert outcomes(push(project, to, "cpu-2.6-arm64"))["2.6"] == "MOVED"
    cuda = project.layout.resolve("cuda-2.6-amd64")
    assert platforms(to, "2.6") == {"linux/amd64": cuda.digest, "linux/arm64": newer.digest}


def test_an_index_does_not_lose_a_platform_silently(
    tmp_path: Path, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to, wide = repository(front, request), small(tmp_path / "wide", cuda_on_arm=True)
    push(wide, to)
    assert set(platforms(to, "cuda-2.6")) == {"linux/amd64", "linux/arm64"}
    narrow = small(tmp_path / "narrow")
    refused = push(narrow, to)
    assert outcomes(refused)["cuda-2.6"] == "REFUSED"
    assert set(platforms(to, "cuda-2.6")) == {"linux/amd64", "linux/arm64"}
    asked = push(narrow, to, drop_platforms=frozenset({"linux/arm64"}))
    assert outcomes(asked)["cuda-2.6"] == "MOVED"
    assert set(platforms(to, "cuda-2.6")) == {"linux/amd64"}


def test_an_immutable_tag_stays(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to, revision="r1")
    first = to.manifest("2.6.0-cpu-py3.13-arm64-r1").descriptor
    project.build("cpu-2.6-arm64")
    project.report("cpu-2.6-arm64")
    result = push(project, to, "cpu-2.6-arm64", revision="r1")
    assert outcomes(result)["2.6.0-cpu-py3.13-arm64-r1"] == "REFUSED"
    assert to.manifest("2.6.0-cpu-py3.13-arm64-r1").descriptor == first


def test_the_report_is_attached_to_the_image(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    to = repository(front, request)
    push(project, to)
    image = project.layout.resolve("cpu-2.6-arm64")
    (found,) = referrers(to, image.digest, REPORT_KIND)
    report = Report.from_json(json.loads(document(to, found)))
    assert (report.digest, report.verdict) == (image.digest, Status.PASSED)


def test_builders_push_by_digest_and_a_last_job_promotes_what_passed(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    for cell in ("cuda-2.6-amd64", "cpu-2.6-arm64"):  # two machines, which do not know of each other
        push(project, to, cell, revision="r7", allow_not_run=frozenset())
    elsewhere = small(tmp_path / "elsewhere")  # the same matrix and locks, none of the images
    options = PublishOptions(revision="r7")
    result = promote(elsewhere.project, elsewhere.pinned, elsewhere.cells(), to, options)
    assert result.exit_code == 0
    cuda, cpu = (project.layout.resolve(n).digest for n in ("cuda-2.6-amd64", "cpu-2.6-arm64"))
    assert platforms(to, "2.6") == {"linux/amd64": cuda, "linux/arm64": cpu}
    assert platforms(to, "2.6.0-cpu-py3.13-r7") == {"linux/arm64": cpu}


def test_immutable_tags_alone_leave_the_moving_ones_to_the_last_job(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    for cell in ("cuda-2.6-amd64", "cpu-2.6-arm64"):
        push(project, to, cell, revision="r8", tags="immutable")
    set_now = {e.path.rpartition("/")[2] for e in front.writes() if "/manifests/" in e.path}
    names = {"2.6.0-cuda12.4-py3.13-amd64-r8", "2.6.0-cpu-py3.13-arm64-r8"}
    assert {name for name in set_now if not name.startswith("sha256")} == names
    assert promote(project.project, project.pinned, project.cells(), to, PublishOptions(revision="r8")).exit_code == 0
    assert set(platforms(to, "2.6")) == {"linux/amd64", "linux/arm64"}


# faults: each once, and the result is the right one


def upload(method: str, path: str) -> bool:
    return method in {"PATCH", "PUT"} and "/blobs/uploads/" in path


def patch(method: str, path: str) -> bool:
    return method == "PATCH"


def manifest(method: str, path: str) -> bool:
    return method == "PUT" and "/manifests/" in path


def moving(method: str, path: str) -> bool:
    return method == "PUT" and path.endswith("/manifests/cpu-2.6")


def last(method: str, path: str) -> bool:
    return method == "PUT" and "/blobs/uploads/" in path


def opening(method: str, path: str) -> bool:
    return method == "POST"


def unknown(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "blob unknown to registry"}]}).encode()


FAULTS = {
    "429 with Retry-After": Fault(when=upload, status=429, headers={"Retry-After": "1"}),
    "500 on an upload": Fault(when=upload, status=500),
    "503 on opening one": Fault(when=lambda m, p: m == "POST", status=503),
    "a cut connection": Fault(when=upload, cut=20_000),
    "a cut connection in a later chunk": Fault(when=lambda m, p: m == "PUT" and "_state" in p, cut=5_000),
    "an answer that never comes": Fault(when=upload, drop=True),
    "a byte changed on the way up": Fault(when=upload, flip=1000),
    "a lost session": Fault(when=patch, status=404),
    "a session refused half way": Fault(when=patch, status=416),
    "500 on a manifest": Fault(when=manifest, status=500),
    "a manifest whose answer never comes": Fault(when=manifest, drop=True),
    "a manifest changed on the way up": Fault(when=manifest, flip=60),
    "a moving tag's manifest changed on the way up": Fault(when=moving, flip=-20),
    "500 on a question": Fault(when=lambda m, p: m == "HEAD", status=500),
    "blob unknown, as GHCR says it now and then": Fault(when=manifest, status=404, body=unknown("BLOB_UNKNOWN")),
    "a blob unknown to the manifest": Fault(when=manifest, status=400, body=unknown("MANIFEST_BLOB_UNKNOWN")),
    "a blob that is lost after it was accepted": Fault(when=last, status=201),
    "a session on a host where nobody is": Fault(when=opening, location="http://127.0.0.1:1/v2/"),
    "a session that does not exist": Fault(when=opening, location="/v2/test/elsewhere/blobs/uploads/none"),
    "a next place that does not exist": Fault(when=patch, location="/v2/test/elsewhere/blobs/uploads/none"),
    "a registry that stops reading": Fault(when=upload, unread=True),
    "a referrers tag that cannot be written": Fault(when=lambda m, p: manifest(m, p) and "sha256-" in p, status=502),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_is_survived(
    fault: Fault, project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request, chunk=65_536)
    to.transport.patience = replace(PATIENCE, connect=1, read=1)
    front.faults = [replace(fault, met=0)]
    push(project, to)
    assert front.faults[0].met == 1, "the fault did not happen"
    for tag, cell in {"cuda-2.6": "cuda-2.6-amd64", "cpu-2.6": "cpu-2.6-arm64"}.items():
        wanted = project.layout.resolve(cell)
        fetched = pull(
            to, tag, arch=project.cell(cell).arch, layout=Layout(tmp_path / "back"), name=cell, progress=Silent()
        )
        assert fetched.digest == wanted.digest


def test_a_registry_that_takes_small_pieces_only_gets_small_pieces(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """GHCR refuses a PATCH above 4 MiB and says so; here above 0.25 MiB. One request learns it for all that follow."""
    front.largest = 1 << 18
    content = os.urandom(1_200_000)
    wanted = project.build("cuda-2.6-amd64", content)
    project.report("cuda-2.6-amd64")
    to = repository(front, request, chunk=1 << 20)
    push(project, to, "cuda-2.6-amd64")
    pieces = [e for e in front.seen if e.method == "PATCH"]
    refused = [e for e in pieces if e.status == 416]
    assert len(refused) == 1
    assert {e.sent for e in pieces if e.status != 416} == {1 << 18}
    assert max(e.sent for e in front.seen if e.method == "PUT") <= 1 << 18, "and the rest is not one request"
    layout = Layout(tmp_path / "back")
    fetched = pull(to, "cuda-2.6", arch="amd64", layout=layout, name="x", progress=Silent())
    assert fetched.digest == wanted.digest


PERMANENT = {
    "429": (Fault(when=upload, status=429), "4 times in a row"),
    "500": (Fault(when=upload, status=500), "4 times in a row"),
    "503": (Fault(when=upload, status=503), "4 times in a row"),
    "cut": (Fault(when=upload, cut=1000), "4 times in a row"),
    "no answer": (Fault(when=upload, drop=True), "4 times in a row"),
    "accepted and lost": (Fault(when=last, status=201), "the registry has None bytes of it after the upload"),
    "session elsewhere": (Fault(when=opening, location="http://127.0.0.1:1/v2/"), "refused"),
    "another host": (Fault(when=opening, location="https://elsewhere.example/v2/x"), "to another host, elsewhere.exam"),
    "no session": (Fault(when=opening, location=""), "it gave no upload URL"),
    "blob unknown": (Fault(when=manifest, status=404, body=unknown("BLOB_UNKNOWN")), "blob unknown to registry"),
    "manifest refused": (Fault(when=manifest, status=503), "4 times in a row"),
}


@pytest.mark.parametrize(("fault", "said"), PERMANENT.values(), ids=PERMANENT.keys())
def test_a_fault_that_stays_is_a_clear_error_and_nothing_gets_a_tag(
    fault: Fault, said: str, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    front.faults = [replace(fault, times=10_000)]
    with pytest.raises(RegistryError, match=said):
        push(project, to)
    assert to.tags() == ()


def test_a_registry_that_stays_broken_is_unavailable(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.faults = [Fault(when=upload, times=10_000, status=500)]
    with pytest.raises(UnavailableError) as caught:
        push(project, repository(front, request))
    assert "run it again" in (caught.value.hint or "")


def test_a_wait_longer_than_patience_is_said_at_once(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.faults = [Fault(when=upload, times=10_000, status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(UnavailableError, match="asks us to wait 3600 s"):
        push(project, repository(front, request))


def test_bytes_that_always_change_on_the_way_end_in_an_error_without_a_tag(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    front.faults = [Fault(when=upload, times=10_000, flip=100)]
    with pytest.raises(UnavailableError, match="digest"):
        push(project, to)
    assert to.tags() == ()


def test_a_blob_that_rotted_on_this_disk_is_named(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    layer = project.layout.manifest(project.layout.resolve("cpu-2.6-arm64")).layers[1]
    path = project.layout.blob_path(layer.digest)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BuildctlError, match="is not the blob"):
        push(project, repository(front, request), "cpu-2.6-arm64")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(when=lambda m, p: m == "GET" and "/blobs/" in p, truncate=10_000),
        Fault(when=lambda m, p: m == "GET" and "/blobs/" in p, stall=10_000),
        Fault(when=lambda m, p: m == "GET" and "/blobs/" in p, corrupt=True),
        Fault(when=lambda m, p: m == "GET" and "/manifests/" in p, corrupt=True),
        Fault(when=lambda m, p: m == "GET", status=503, headers={"Retry-After": "1"}),
    ],
    ids=["cut", "stalled", "corrupt blob", "corrupt manifest", "503"],
)
def test_a_pull_survives_a_fault_and_gives_the_same_digest(
    fault: Fault, project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    push(project, to)
    front.faults = [replace(fault, met=0)]
    to.transport.patience = replace(PATIENCE, read=1)
    back = Layout(tmp_path / "back")
    found = pull(to, "cpu-2.6", arch="arm64", layout=back, name="x", progress=Silent())
    assert front.faults[0].met == 1
    assert found.digest == project.layout.resolve("cpu-2.6-arm64").digest


# who may


@pytest.mark.parametrize("basic", [False, True], ids=["bearer", "basic"])
def test_credentials_are_given_when_asked_for(
    basic: bool, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.users, front.basic = {"me": "secret"}, basic
    to = repository(front, request)
    to.transport.credentials = lambda _: Credentials(username="me", password="secret")
    push(project, to)
    assert to.head("cpu-2.6") is not None


def test_credentials_come_from_dockers_configuration(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.users = {"me": "secret"}
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\ncat >/dev/null\necho \'{"ServerURL":"x","Username":"me","Secret":"secret"}\'\n')
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {front.netloc: "test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(helper.parent), prepend=":")
    to = repository(front, request)
    to = replace(to, transport=Transport(front.netloc, patience=PATIENCE))
    push(project, to)
    assert to.head("cpu-2.6") is not None


@pytest.mark.parametrize("known", [None, Credentials(username="me", password="wrong")], ids=["none", "wrong"])
@pytest.mark.parametrize("basic", [False, True], ids=["bearer", "basic"])
def test_a_refusal_says_to_log_in(
    basic: bool, known: Credentials | None, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.users, front.basic = {"me": "secret"}, basic
    to = repository(front, request)
    to.transport.credentials = lambda _: known
    with pytest.raises(RefusedError) as caught:
        push(project, to)
    assert "docker login" in (caught.value.hint or "")


def test_forbidden_is_not_tried_again(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    front.readonly = True
    with pytest.raises(RefusedError, match="403"):
        push(project, repository(front, request), "cpu-2.6-arm64")
    assert len([e for e in front.seen if e.method == "POST"]) <= 4  # one for each worker


def test_nobody_there_is_unavailable(project: Small, request: pytest.FixtureRequest) -> None:
    transport = Transport("127.0.0.1:1", patience=PATIENCE, credentials=lambda _: None)
    to = Repository(reference=Reference(registry="127.0.0.1:1", repository="x"), transport=transport)
    with pytest.raises(UnavailableError, match="refused"):
        push(project, to)


def test_a_base_image_is_fetched_once_by_digest(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    push(project, to)
    index = to.manifest("2.6").descriptor.digest
    image = f"{to.reference.name}@{index}"
    for _ in range(2):
        layout, found = base_from_registry(image, arch="arm64", root=tmp_path / "cache", progress=Silent())
        assert found.digest == project.layout.resolve("cpu-2.6-arm64").digest
        assert check_image(layout, found) == []
        asked, front.upstream = len(front.seen), "127.0.0.1:1"  # from now on nobody is there
    assert len(front.seen) == asked


def test_a_base_image_without_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildctlError, match="no digest"):
        base_from_registry("localhost:1/a:b", arch="amd64", root=tmp_path, progress=Silent())


def test_what_a_tag_keeps_for_an_architecture_is_for_it(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    """Whoever may push could have put there what a later run, and its signature, would make respectable."""
    to = repository(front, request)
    push(project, to)
    index = Index.from_json(to.manifest("2.6").json())
    one, two = index.manifests
    swapped = (replace(one, platform=two.platform), replace(two, platform=one.platform))
    to.put_manifest(canonical_json(replace(index, manifests=swapped).to_json()), MediaType.INDEX, "2.6")
    tag = next(t for t in push(project, to, "cuda-2.6-amd64").tags if t.name == "2.6")
    assert tag.outcome is TagOutcome.REFUSED
    assert tag.reason.endswith("the tag's image for it is configured for linux/amd64"), tag.reason
    project.build("cpu-2.6-arm64", labels={"dev.buildctl.accelerator": "rocm"})
    project.report("cpu-2.6-arm64")
    assert outcomes(push(project, to))["2.6"] == "MOVED"
    tag = next(t for t in push(project, to, "cuda-2.6-amd64").tags if t.name == "2.6")
    assert tag.outcome is TagOutcome.WAITING
    assert tag.reason == "for cpu-2.6-arm64: for linux/arm64 it has accelerator rocm, not cpu"


def test_an_architecture_that_an_index_does_not_name_is_not_lost(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    to = repository(front, request)
    push(project, to)
    value = to.manifest("2.6").json()
    bare = [{k: v for k, v in entry.items() if k != "platform"} for entry in value["manifests"]]
    to.put_manifest(canonical_json({**value, "manifests": bare}), MediaType.INDEX, "2.6")
    before = {entry["digest"] for entry in bare}
    assert outcomes(push(project, to, "cuda-2.6-amd64"))["2.6"] == "MOVED"
    assert {str(digest) for digest in platforms(to, "2.6").values()} == before
