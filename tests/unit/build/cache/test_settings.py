"""Options of the shared cache: what contradicts itself is refused before any work, and proposals never write."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from buildctl.build.cache.options import CacheOptions
from buildctl.build.cache.settings import open_cache, proposal
from buildctl.ground.errors import ProblemsError, UsageError
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD
from buildctl.registry.keys import SigningError
from tests.conftest import ROOT

REPO = "registry.example/team/cache"


@pytest.fixture
def key(tmp_path: Path) -> str:
    made = generate_private_key(SECP256R1())
    (tmp_path / "k.key").write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "k.pub").write_bytes(public)
    return str(tmp_path / "k.key")


def with_cache(folder: Path, text: str) -> Project:
    """This project's matrix.yaml with `cache` in it, in a folder of its own."""
    (folder / "matrix.yaml").write_text((ROOT / "matrix.yaml").read_text() + f"\ncache: {text}\n")
    return Project.find(folder)


def test_without_a_cache_nothing_is_opened(project: Project) -> None:
    assert open_cache(project, CacheOptions(), ZSTD, {}) is None


@pytest.mark.usefixtures("key")
def test_matrix_yaml_names_the_cache_and_the_options_go_before_it(tmp_path: Path) -> None:
    named = with_cache(tmp_path, f"{{from: [{REPO}], keys: [k.pub], refuse: [{'a' * 64}]}}")
    found = open_cache(named, CacheOptions(), ZSTD, {})
    assert found is not None
    assert [source.name for source in found.sources] == [REPO]
    assert found.sources[0].trust.refused == {"a" * 64}
    other = open_cache(named, CacheOptions(read=("registry.example/other",)), ZSTD, {})
    assert other is not None
    assert [source.name for source in other.sources] == ["registry.example/other"]
    assert open_cache(named, CacheOptions(read=()), ZSTD, {}) is None


def test_what_is_written_is_read_too_unless_nothing_is(project: Project, key: str) -> None:
    found = open_cache(project, CacheOptions(write=REPO, key=key), ZSTD, {})
    assert found is not None
    assert found.writer is not None
    assert [source.name for source in found.sources] == [found.writer.name] == [REPO]
    only = open_cache(project, CacheOptions(read=(), write=REPO, key=key), ZSTD, {})
    assert only is not None
    assert (only.sources, only.writer is not None) == ((), True)


def test_a_cache_without_a_key_to_check_it_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"line \d+: cache: a cache needs `keys`"):
        _ = with_cache(tmp_path, f"{{from: [{REPO}]}}").matrix
    with pytest.raises(UsageError, match=f"no key to check what {REPO} says"):
        open_cache(project, CacheOptions(read=(REPO,)), ZSTD, {})


def test_writing_without_a_key_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="--cache-to needs a key"):
        open_cache(project, CacheOptions(write=REPO), ZSTD, {})


def test_a_private_key_is_not_one_to_check_with(project: Project, key: str) -> None:
    with pytest.raises(SigningError, match="is a private key"):
        open_cache(project, CacheOptions(read=(REPO,), trust=(key,)), ZSTD, {})


@pytest.mark.parametrize(
    "environ",
    [
        {"GITHUB_EVENT_NAME": "pull_request"},
        {"GITHUB_EVENT_NAME": "pull_request_target"},
        {"GITHUB_EVENT_NAME": "pull_request_review_comment"},
        {"GITHUB_EVENT_NAME": "issue_comment"},
        {"CI_PIPELINE_SOURCE": "merge_request_event"},
        {"CI_PIPELINE_SOURCE": "external_pull_request_event"},
    ],
)
def test_jobs_of_proposals_never_write(
    project: Project, key: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("buildctl.build.cache.settings.say", said.append)
    found = open_cache(project, CacheOptions(write=REPO, key=key), ZSTD, environ)
    assert found is not None
    assert found.writer is None
    assert "nothing is written: this job was started by" in said[0]


@pytest.mark.parametrize("environ", [{}, {"GITHUB_EVENT_NAME": "push"}, {"CI_PIPELINE_SOURCE": "push"}])
def test_other_jobs_write(environ: dict[str, str]) -> None:
    assert proposal(environ) == ""


def test_contradicting_options_are_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        CacheOptions.given(no_cache_from=True, require_cache=True)
    with pytest.raises(UsageError, match="--require-cache needs a cache"):
        open_cache(project, CacheOptions(required=True), ZSTD, {})


def test_no_option_is_not_an_empty_one() -> None:
    assert CacheOptions.given().read is None
    assert CacheOptions.given(no_cache_from=True, cache_from=[REPO]).read == ()
