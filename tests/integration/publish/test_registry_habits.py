"""Registries that do not keep to the specification, as public reports describe them: a real one with each habit."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from buildctl.ground.net import Patience
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.registry import client
from buildctl.registry.auth import Credentials
from buildctl.registry.client import Repository, document_type
from buildctl.registry.members import members
from buildctl.registry.problems import RefusedError, RegistryError, UnavailableError
from buildctl.registry.referrers import Document, attach, fallback_tag, referrers
from buildctl.registry.transport import Transport
from tests.support.projects import Small
from tests.support.publishing import outcomes, push, repository
from tests.support.registry import Fault, Proxy
from tests.support.servers import site

INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
ALWAYS = 10_000


@pytest.fixture
def there(project: Small, front: Proxy, request: pytest.FixtureRequest) -> Repository:
    """Published with the tag 2.6, the reference's, and without reports."""
    to = repository(front, request)
    push(project, to)
    return replace(to, reference=to.reference.tagged("2.6"), write=False)


def manifests(front: Proxy, **fault: object) -> None:
    front.faults = [Fault(when=lambda m, p: "/manifests/" in p, times=ALWAYS, **fault)]  # type: ignore[arg-type]


# what a manifest is called


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "application/octet-stream"])
def test_a_manifest_may_come_under_a_general_type(kind: str, there: Repository, front: Proxy) -> None:
    manifests(front, relabel=kind)
    top = there.manifest("2.6")
    assert top.descriptor.media_type == INDEX
    head = there.head("2.6")
    assert head == top.descriptor
    assert {str(m.platform) for m in members(there, top)} == {"linux/amd64", "linux/arm64"}


@pytest.mark.parametrize(
    ("value", "kind", "is_"),
    [
        ({"manifests": []}, "application/json", INDEX),
        ({"config": {}, "layers": []}, "", IMAGE),
        ({"manifests": []}, INDEX, INDEX),
        ({"mediaType": "application/x", "layers": []}, IMAGE, "application/x"),
        ({}, "application/y", "application/y"),
    ],
)
def test_the_type_is_its_own_word_else_the_registrys_else_its_shape(value: object, kind: str, is_: str) -> None:
    assert document_type(canonical_json(value), kind, "x") == is_


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b'{"manifests": [], "layers": []}', INDEX, "both an image and an index"),
        (b'{"manifests": []}', IMAGE, "calls itself .*manifest.* but looks like .*index"),
        (b'{"layers": [], "mediaType": "%s"}' % INDEX.encode(), INDEX, "calls itself .*index.* but looks like"),
        (b"<!doctype html><p>Sign in", "text/html", "is not JSON: .*it came as 'text/html'"),
        (b"[]", IMAGE, "not a JSON object"),
        (b"[" * 100_000, IMAGE, "is not JSON"),
    ],
    ids=["both", "type of the other", "word of the other", "a page", "a list", "deep"],
)  # fmt: skip
def test_a_document_that_clients_would_not_agree_on_is_refused(data: bytes, kind: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        document_type(data, kind, "x")


# no end


@pytest.mark.parametrize("where", ["/manifests/", "/blobs/", "/tags/", "/referrers/"])
def test_what_does_not_end_is_refused(where: str, there: Repository, front: Proxy) -> None:
    config = config_of_first(there)
    front.faults = [Fault(when=lambda m, p: where in p, times=ALWAYS, endless=True)]
    if where == "/referrers/":
        assert referrers(there, there.manifest("2.6").descriptor.digest) == ()
        return
    ask = {"/manifests/": lambda: there.manifest("2.6"), "/blobs/": lambda: there.blob(config), "/tags/": there.tags}
    with pytest.raises(RefusedError, match=r"the response exceeds the limit of \d+ bytes"):
        ask[where]()


def config_of_first(there: Repository) -> Descriptor:
    return members(there, there.manifest("2.6"))[0].manifest.config


def test_an_error_that_does_not_end_is_an_error(there: Repository, front: Proxy) -> None:
    manifests(front, status=400, endless=True)
    with pytest.raises(RefusedError, match="400"):
        there.manifest("2.6")


def test_a_coding_that_was_not_asked_for_is_refused(there: Repository, front: Proxy) -> None:
    manifests(front, status=200, body=gzip.compress(bytes(1 << 20)), headers={"Content-Encoding": "gzip"})
    with pytest.raises(RefusedError, match="has the encoding 'gzip'"):
        there.manifest("2.6")


def test_a_document_has_a_deadline(there: Repository, front: Proxy) -> None:
    slow = Transport(there.transport.registry, patience=Patience(connect=5, read=0.6), credentials=lambda _: None)
    manifests(front, drip=0.1)
    with pytest.raises(RefusedError, match="took longer than"):
        replace(there, transport=slow).manifest("2.6")


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("_PAGES", 1, "has more than 1 pages"),
        ("_LIST_LIMIT", 5, "is larger than 0 MiB"),
        ("_LIST_SECONDS", 0.0, "took longer than 0 s"),
    ],
)
def test_a_list_has_an_end(
    limit: str, value: float, said: str, there: Repository, front: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, in bytes and in time, whatever the pages say."""
    link = {"Link": f'<{there.path}/tags/list?n=1000&last=2>; rel="next"'}
    page = b'{"tags": ["a"]}'

    def first() -> list[Fault]:
        return [Fault(when=lambda m, p: p.endswith("n=1000"), times=1, status=200, headers=link, body=page)]

    front.faults = first()
    assert {"a", "2.6"} <= set(there.tags())
    front.faults = first()
    monkeypatch.setattr(client, limit, value)
    with pytest.raises(RefusedError, match=f"the list {said}"):
        there.tags()


def test_a_host_that_never_says_a_word_is_asked_once() -> None:
    """Six times a minute and a half, it was; one that has answered before gets its whole patience."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        netloc = f"127.0.0.1:{server.getsockname()[1]}"
        patience = Patience(connect=5, read=4.5, attempts=3, backoff=0.01)
        silent = Transport(netloc, plain_http=True, patience=patience, credentials=lambda _: None)
        with pytest.raises(UnavailableError, match=r"ping: timed out waiting for data$"):
            silent.send("GET", "/v2/", what="ping")
        server.settimeout(0)
        server.accept()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_next_page_that_is_itself_is_refused(there: Repository, front: Proxy) -> None:
    path = f"{there.path}/tags/list?n=1000"
    headers = {"Link": f'<{path}>; rel="next"', "Content-Type": "application/json"}
    page = b'{"tags": []}'
    front.faults = [Fault(when=lambda m, p: "/tags/" in p, times=ALWAYS, status=200, headers=headers, body=page)]
    with pytest.raises(RefusedError, match="the list never ends"):
        there.tags()


# what is attached, and what is not there


@pytest.fixture
def gitlab(there: Repository, front: Proxy) -> Iterator[Repository]:
    """Takes the tag sha256-HEX for the manifest itself, whatever was stored under it."""
    front.rewrite = lambda path: re.sub(r"/manifests/sha256-([0-9a-f]{64})$", r"/manifests/sha256:\1", path)
    yield there
    front.rewrite = None


@pytest.mark.parametrize("what", ["index", "image"])
def test_gitlab_has_no_list_of_referrers(what: str, gitlab: Repository) -> None:
    top = gitlab.manifest("2.6")
    digest = top.descriptor.digest if what == "index" else members(gitlab, top)[0].descriptor.digest
    assert gitlab.manifest(fallback_tag(digest)).descriptor.digest == digest
    assert referrers(gitlab, digest) == ()


def test_that_nothing_can_be_attached_there_is_said(gitlab: Repository) -> None:
    subject = gitlab.manifest("2.6").descriptor
    with pytest.raises(RefusedError, match=r"resolves the tag sha256-[0-9a-f]{64} to the image itself"):
        attach(replace(gitlab, write=True), subject, Document(kind="x/y", data=b"1"))


def test_artifactory_says_forbidden_of_what_is_not_there(
    project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.forbidding = True
    to = repository(front, request)
    assert set(outcomes(push(project, to)).values()) == {"CREATED"}
    assert set(outcomes(push(project, to)).values()) == {"UNCHANGED"}
    reading = replace(to, write=False)
    with pytest.raises(RefusedError, match="403"):
        reading.manifest("no-such-tag")
    assert referrers(reading, reading.manifest("2.6").descriptor.digest) == ()


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405])
def test_no_answer_about_referrers_stops_reading_or_attaching(status: int, there: Repository, front: Proxy) -> None:
    page = {"headers": {"Content-Type": "text/html"}, "body": b"<html>welcome</html>"}
    front.faults = [Fault(when=lambda m, p: "/referrers/" in p, times=ALWAYS, status=status, **page)]  # type: ignore[arg-type]
    subject = there.manifest("2.6").descriptor
    attached = attach(replace(there, write=True), subject, Document(kind="x/y", data=b"1")).referrer
    assert [r.descriptor.digest for r in referrers(there, subject.digest, "x/y")] == [attached.descriptor.digest]


# who may, and what must be there first


def test_acr_calls_the_token_access_token(project: Small, front: Proxy, request: pytest.FixtureRequest) -> None:
    front.users, front.token_name = {"me": "secret"}, "access_token"
    to = repository(front, request)
    to.transport.credentials = lambda _: Credentials(username="me", password="secret")
    assert set(outcomes(push(project, to)).values()) == {"CREATED"}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (307, {"Location": "http://[::1"}),
        (307, {"Location": "file:///etc/passwd"}),
        (307, {"Location": "/v2/x/manifests/2.6"}),
        (401, {"WWW-Authenticate": 'Bearer realm="http://[::1",service="x"'}),
        (401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:99999/",service="x"'}),
    ],
)
def test_an_address_that_cannot_be_is_refused_at_once(
    status: int, headers: dict[str, str], there: Repository, front: Proxy
) -> None:
    manifests(front, status=status, headers=headers)
    with pytest.raises(RefusedError):
        there.manifest("2.6")
    assert front.faults[0].met <= 31  # redirects that lead round in circles


@pytest.mark.parametrize("location", ["http://[::1", "//[", "/v2/x\xff"])
def test_an_upload_that_goes_on_nowhere_is_refused(
    location: str, project: Small, front: Proxy, request: pytest.FixtureRequest
) -> None:
    front.faults = [Fault(when=lambda m, p: m == "POST", times=ALWAYS, status=202, headers={"Location": location})]
    with pytest.raises(RegistryError):
        push(project, repository(front, request))


@pytest.mark.parametrize("token", ["two\r\nlines", "a b", 7, ["x"], "\x1b", ""])
def test_what_cannot_be_a_token_is_refused_at_once(token: object, there: Repository, front: Proxy) -> None:
    there.transport.credentials = lambda _: None
    challenge = f'Bearer realm="{there.transport.root}/auth",service="x"'
    asked = Fault(
        when=lambda m, p: "/manifests/" in p, times=ALWAYS, status=401, headers={"WWW-Authenticate": challenge}
    )
    given = Fault(when=lambda m, p: p.startswith("/auth"), times=ALWAYS, status=200)
    given.body = json.dumps({"token": token}).encode()
    front.faults = [asked, given]
    with pytest.raises(RefusedError, match="answered without a token"):
        there.manifest("2.6")
    assert given.met == 1


def refusal(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "NAME_UNKNOWN", "The repository with name 'x' does not exist in the registry with id '1'"),  # ECR
        (403, "DENIED", "project x not found or no permission"),  # Harbor
    ],
)
def test_a_repository_that_must_be_made_first_is_told_at_once(
    project: Small, front: Proxy, request: pytest.FixtureRequest, status: int, code: str, message: str
) -> None:
    body = refusal(code, message)
    front.faults = [Fault(when=lambda m, _: m == "POST", times=ALWAYS, status=status, body=body)]
    with pytest.raises(RegistryError, match=re.escape(message)):
        push(project, repository(front, request))
    assert sum(e.method == "POST" for e in front.seen) <= 8, "each blob is tried once"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "TAG_INVALID", "The image tag '2.6' already exists in the 'x' repository and is immutable"),  # ECR
        (412, "PRECONDITION", "Failed to process request due to '2.6' configured as immutable."),  # Harbor
        (409, "CONFLICT", "tag 2.6 is locked"),  # ACR
    ],
)
def test_a_tag_that_may_not_move_is_told_and_not_tried_again(
    project: Small, front: Proxy, request: pytest.FixtureRequest, status: int, code: str, message: str
) -> None:
    to = repository(front, request)
    body = refusal(code, message)
    front.faults = [
        Fault(when=lambda m, p: m == "PUT" and p.endswith("/manifests/2.6"), times=9, status=status, body=body)
    ]
    with pytest.raises(RefusedError, match=re.escape(message)):
        push(project, to)
    assert front.faults[0].met == 1
    assert "2.6" not in to.tags()


def test_a_registry_that_takes_no_artifacts_is_told(there: Repository, front: Proxy) -> None:
    """Quay, where the administrator has not allowed the type."""
    body = refusal("MANIFEST_INVALID", "manifest invalid: artifact type is not allowed")
    manifests(front, status=400, body=body)
    front.faults[0].when = lambda m, p: m == "PUT" and "/manifests/" in p
    subject = there.manifest("2.6").descriptor
    with pytest.raises(RefusedError, match="artifact type is not allowed"):
        attach(replace(there, write=True), subject, Document(kind="x/y", data=b"1"))
    assert referrers(there, subject.digest) == ()


def test_what_is_private_or_absent_is_told_with_the_way_to_log_in(there: Repository, front: Proxy) -> None:
    """Docker Hub, Quay and GHCR answer 401 for a repository that is not there, or not for everybody."""
    challenge = f'Bearer realm="{there.transport.root}/token",service="x",error="insufficient_scope"'
    body = refusal("UNAUTHORIZED", "authentication required")
    manifests(front, status=401, headers={"WWW-Authenticate": challenge}, body=body)
    front.users = {}
    with pytest.raises(RefusedError, match="401") as caught:
        there.manifest("2.6")
    assert "docker login" in str(caught.value.hint)
    assert front.faults[0].met <= 2


def test_blobs_come_from_another_host_which_gets_no_credentials(there: Repository, front: Proxy) -> None:
    """Docker Hub, GHCR, ECR, ACR and Quay redirect to a store of objects."""
    image = members(there, there.manifest("2.6"))[0]
    config = Descriptor.from_json(there.manifest(str(image.descriptor.digest)).json()["config"])
    data = there.blob(config)
    with site() as store:
        store.files["/object"] = ("application/octet-stream", data)
        place = f"http://localhost:{store.server_address[1]}/object?signature=1"
        front.faults = [Fault(when=lambda m, p: "/blobs/" in p and m == "GET", status=307, headers={"Location": place})]
        there.transport._authorisations[()] = there.transport._authorisations[there.scope] = "Bearer secret"
        assert there.blob(config) == data
        (asked,) = store.seen
    assert "authorization" not in {name.lower() for name in asked.headers}
