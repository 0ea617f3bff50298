"""The real images, published once: other people's clients pull both architectures from the tags, and they run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from buildctl.artifacts.store import Store
from buildctl.build.index import claimed
from buildctl.docker.daemon import loopback_port
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.lock.locked import load_matrix_images
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from buildctl.publish.move import move_tags
from buildctl.publish.tags import tags_of
from buildctl.registry.client import open_repository
from buildctl.registry.reference import Reference
from buildctl.runtimes.api import EMULATION_ENV, ImageRef
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from tests.conftest import ROOT, buildctl
from tests.support.engine import Engine, Unavailable, program
from tests.support.publishing import skopeo
from tests.support.registry import docker_registry

pytestmark = [pytest.mark.network, pytest.mark.images]

CELLS = {"arm64": "cpu-2.6-arm64", "amd64": "cuda-2.6-amd64"}
ARCHES = [pytest.param(arch, marks=[pytest.mark.big] if arch == "amd64" else []) for arch in CELLS]
ASK = ["python", "-c", "import torch; print(torch.__version__, torch.version.cuda)"]
INSTALLED = ["python", "-c", "from importlib.metadata import version; print(version('torch'))"]
SAYS = {"amd64": "2.6.0+cu124 12.4", "arm64": "2.6.0+cpu None"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`place` is REGISTRY/REPOSITORY, `tag` one of all of it; `digests` are by architecture, `sent` by cell id."""

    names: list[str]
    place: str
    tag: str
    digests: dict[str, Digest]
    sent: dict[str, int]


@pytest.fixture(scope="module")
def published(built: Path, stores: Path) -> Iterator[Published]:
    with publishing(built, stores, {"arm64": CELLS["arm64"]}) as found:
        yield found


@pytest.fixture(scope="module")
def published_both(everything: Path, stores: Path) -> Iterator[Published]:
    with publishing(everything, stores, CELLS) as found:
        yield found


@pytest.fixture
def place(arch: str, request: pytest.FixtureRequest) -> Published:
    """Where an image for that architecture is."""
    found: Published = request.getfixturevalue("published_both" if arch == "amd64" else "published")
    return found


@contextmanager
def publishing(built: Path, stores: Path, cells: Mapping[str, str]) -> Iterator[Published]:
    """Images under the tags of the rule. What may move a tag is another test's question."""
    project, layout = Project.find(ROOT, layout=built), Layout(built)
    names = [cell.rpartition("-")[0] for cell in cells.values()]
    folder = stores / f"registry-{len(names)}-{os.getpid()}"  # next to the store: 3 GB are too much for some /tmp
    try:
        with docker_registry(folder) as netloc:
            place = f"{netloc}/pytorch"
            argv = ["publish", *names, "--to", place, "--tags", "none", "--no-sbom", "--json"]
            done = buildctl("--layout", built, *argv)
            assert done.returncode == 0, done.stderr
            members = {c: claimed(d := layout.resolve(c), layout.config(d)) for c in cells.values()}
            claims = {name: locked.claims for name, locked in load_matrix_images(project).items()}
            tags = tags_of(project.matrix.cells, claims, of=list(members))
            repository = open_repository(Reference.parse_repository(place), write=True)
            states = move_tags(repository, tags, members, objections={})
            universal = ["2.6"] * (len(cells) == len(CELLS))  # waits for every architecture
            assert {*universal, *names} <= {s.name for s in states if s.digest}
            yield Published(
                names=names,
                place=place,
                tag=[*universal, *names][0],
                digests={arch: members[cell].digest for arch, cell in cells.items()},
                sent={image["id"]: image["bytesSent"] for image in json.loads(done.stdout)["images"]},
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(stores: Path) -> Iterator[Path]:
    yield stores / "pulled"
    shutil.rmtree(stores / "pulled", ignore_errors=True)


def crane(*argv: str | Path) -> str:
    try:
        path = program("crane")
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    done = subprocess.run([path, *argv], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def pull_with_skopeo(source: str, arch: str, folder: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("NOT RUN: skopeo is not installed (apt-get install skopeo)")
    skopeo(
        "copy",
        "--src-tls-verify=false",
        f"--override-arch={arch}",
        f"docker://{source}",
        f"oci:{folder}:x",
        timeout=300,
    )


def pull_with_crane(source: str, arch: str, folder: Path) -> None:
    crane("pull", "--format", "oci", "--platform", f"linux/{arch}", source, folder)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    ("pull", "ask"), [(pull_with_skopeo, ASK), (pull_with_crane, INSTALLED)], ids=["skopeo", "crane"]
)
def test_a_pulled_image_is_ours_and_runs(
    pull: Callable[[str, str, Path], None],
    ask: list[str],
    arch: str,
    place: Published,
    folder: Path,
    built_store: dict[str, str],
) -> None:
    pull(f"{place.place}:{place.tag}", arch, folder)
    layout = Layout(folder)
    (image,) = layout.read_index().manifests
    assert image.digest == place.digests[arch]
    config = layout.config(image)
    found = ImageRef(layout=folder, descriptor=image, name=f"pulled-{arch}", arch=arch, config=config)
    store = Store(Path(built_store["BUILDCTL_CACHE"]))
    try:
        with SandboxRuntime(store).start(found) as session:
            outcome = session.run(ask, timeout=200)
    except RuntimeUnavailableError as error:
        pytest.skip(f"NOT RUN: {error.message}")
    says = SAYS[arch] if ask is ASK else SAYS[arch].partition("+")[0]
    assert (outcome.stdout.strip(), outcome.returncode) == (says, 0), outcome.stderr


@pytest.mark.parametrize("arch", ARCHES)
def test_crane_validates_what_is_under_the_tags(arch: str, place: Published) -> None:
    """Manifests, configurations and sizes; its full validation reads gzip layers only (see test_foreign_validators)."""
    for tag in {place.tag, *place.names}:
        assert "PASS" in crane("validate", "--fast", "--insecure", "--remote", f"{place.place}:{tag}")
    for platform, digest in place.digests.items():
        asked = crane("digest", "--insecure", "--platform", f"linux/{platform}", f"{place.place}:{place.tag}")
        assert asked.strip() == str(digest)
    assert arch in place.digests


@pytest.mark.parametrize("arch", ARCHES)
def test_every_byte_went_once_and_nothing_goes_again(arch: str, place: Published, built: Path) -> None:
    layout = Layout(built)
    images = [layout.manifest(layout.resolve(CELLS[platform])) for platform in place.digests]
    blobs = {d.digest: d.size for image in images for d in (image.config, *image.layers)}
    documents = sum(place.sent.values()) - sum(blobs.values())
    assert 0 <= documents < 100_000  # reports, where these images were tested
    argv = ["publish", *place.names, "--to", place.place, "--tags", "none", "--no-sbom", "--json"]
    again = buildctl("--layout", built, *argv)
    assert again.returncode == 0, again.stderr
    assert [image["bytesSent"] for image in json.loads(again.stdout)["images"]] == [0] * len(place.names)


@pytest.mark.docker
@pytest.mark.parametrize("arch", ARCHES)
def test_docker_pulls_the_universal_tag_for_its_platform_and_runs_it(
    arch: str, place: Published, docker_engine: Engine, docker_client: docker.DockerClient
) -> None:
    def command(*argv: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *argv], check=False, capture_output=True, text=True, timeout=300, env=docker_engine.env
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    registry, _, repository = place.place.partition("/")
    with loopback_port(docker_client, int(registry.rpartition(":")[2])) as port:
        if port is None:
            pytest.skip("NOT RUN: this Docker Engine is on another machine")
        reference, platform = f"127.0.0.1:{port}/{repository}:{place.tag}", f"linux/{arch}"
        environment = [word for key, value in EMULATION_ENV[arch].items() for word in ("--env", f"{key}={value}")]
        try:
            command("pull", "--quiet", "--platform", platform, reference)
            said = command("run", "--rm", "--network=none", "--platform", platform, *environment, reference, *ASK)
        finally:
            command("rmi", "--force", reference, check=False)
    assert said.splitlines()[-1] == SAYS[arch]
