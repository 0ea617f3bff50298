"""The pages as text: nothing that is not so, unknown as unknown, no link that leads nowhere; the folder as a whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError, UsageError, WriteError
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from buildctl.publish.page.collect import of_layout
from buildctl.publish.page.value import PageData, PageImage, PageState
from buildctl.publish.page.write import pages, write_pages
from buildctl.testing.report import Report, Status
from tests.support.pages import BUILT, TESTED, TRICK, page_project


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return page_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def data(shown: Project) -> PageData:
    return few(of_layout(shown))


def few(data: PageData) -> PageData:
    """With verdicts on one image only: those on all take seconds."""
    return replace(data, subjects=tuple(s for s in data.subjects if s.name == "cpu-2.6"))


@pytest.fixture(scope="module")
def folder(data: PageData) -> dict[str, bytes]:
    return pages(data)


def named(data: PageData, cell: str) -> PageImage:
    return next(image for image in data.images if image.cell.id == cell)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [value for key in ("href", "src") if (value := found.get(key))]
        self.ids += [value for key in ("id",) if (value := found.get(key))]


def parsed(page: bytes) -> Links:
    links = Links()
    links.feed(page.decode())
    return links


def text_of(page: bytes) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.decode()))


def test_every_link_leads_somewhere_in_the_folder(folder: dict[str, bytes]) -> None:
    each = {name: parsed(content) for name, content in folder.items() if name.endswith(".html")}
    assert len(each) == 5 + 15
    for name, links in each.items():
        assert len(links.ids) == len(set(links.ids)), name
        for target in links.targets:
            page, _, anchor = target.partition("#")
            assert (page or name) in folder, f"{name}: {target}"
            assert not anchor or anchor in each[page or name].ids, f"{name}: {target}"


def test_no_address_and_no_style_or_script_in_the_text(folder: dict[str, bytes]) -> None:
    for name, content in folder.items():
        assert b"://" not in content.replace(b"http://www.w3.org/2000/svg", b""), name
        assert b" style=" not in content, name
        assert b" onclick=" not in content, name


def test_the_folder_is_small(folder: dict[str, bytes]) -> None:
    assert sum(map(len, folder.values())) < 1_000_000


def test_the_same_input_gives_the_same_bytes(shown: Project, folder: dict[str, bytes]) -> None:
    assert pages(few(of_layout(shown))) == folder


def test_what_an_image_printed_is_text(folder: dict[str, bytes]) -> None:
    assert TRICK.encode() not in folder[f"{TESTED}.html"]
    assert b"&lt;script&gt;" in folder[f"{TESTED}.html"]


def test_the_states_of_the_cells(data: PageData) -> None:
    states = {image.cell.id: image.state for image in data.images}
    assert states[TESTED] is PageState.PARTLY
    assert {states[name] for name in BUILT[1:]} == {PageState.UNTESTED}
    assert states["cuda-2.6-devel-amd64"] is PageState.UNBUILT
    assert states["mps-2.6-arm64"] is PageState.UNTESTED


def test_the_figures_on_the_first_page(folder: dict[str, bytes]) -> None:
    text = text_of(folder["index.html"])
    assert "built 4 of 12 images" in text
    assert "tested 1 of 15" in text
    assert "findings NOT RUN 1 of 3" in text
    assert "findings FAILED 0 of 3" in text
    assert "before 2.11 the linux/aarch64 wheels of torch on PyPI are CPU builds" in text


def test_an_image_page_says_what_is_known(shown: Project, folder: dict[str, bytes]) -> None:
    text = text_of(folder[f"{TESTED}.html"])
    digest = Layout(shown.layout).resolve(TESTED).digest
    for wanted in (
        str(digest),
        "docker run -it --rm --gpus all pytorch:cuda-2.6",
        "Blackwell 2024 no code for it",
        "Needs the NVIDIA driver 525 or newer",
        "no NVIDIA device on this host",
        "never; NOT RUN since 2026-11-20 10:00:00 UTC",
        "2.6.0-cuda12.4-py3.13-amd64",
        "unknown: images of a layout are signed when they are published",
        "Search 16 packages",
    ):
        assert wanted in text, wanted


def test_what_is_not_built_has_no_digest_and_nothing_made_up(folder: dict[str, bytes]) -> None:
    text = text_of(folder["cuda-2.10-amd64.html"])
    assert "It is not built, so it has no digest." in text
    assert "buildctl build cuda-2.10, then docker run" in text
    assert "Unknown: the image is not there." in text
    assert "sha256:" not in text


def test_a_report_about_another_digest_is_not_about_this_image(shown: Project, data: PageData) -> None:
    path = shown.report(named(data, TESTED).cell)
    before = path.read_bytes()
    try:
        other = replace(Report.from_json(json.loads(before)), digest=Digest.of(b"another"))
        path.write_text(json.dumps(other.to_json()))
        image = named(of_layout(shown), TESTED)
        assert (image.state, image.report) == (PageState.UNTESTED, None)
        assert image.debts[0].ran is not None
    finally:
        path.write_bytes(before)


def test_a_failure_is_shown_first(data: PageData) -> None:
    image = named(data, TESTED)
    assert image.report is not None
    bad = replace(image.report.findings[2], status=Status.FAILED, detail="the wrong device")
    failed = replace(image, report=replace(image.report, findings=(*image.report.findings[:2], bad)))
    folder = pages(replace(data, images=(failed, *data.images[1:]), subjects=()))
    rows = re.findall(r'<tr><td><span class="chip (\w+)">', folder[f"{TESTED}.html"].decode())
    assert rows == ["failed", "partly", "passed"]
    assert "tested: FAILED" in text_of(folder["index.html"])


def test_nothing_built_is_said_not_drawn(data: PageData) -> None:
    bare = replace(
        data,
        images=tuple(
            replace(i, side=None, layers=(), packages=None, report=None, tags=None, claims=None) for i in data.images
        ),
        build=None,
        subjects=(),
    )
    folder = pages(bare)
    assert "Unknown: no image is built." in text_of(folder["sizes.html"])
    assert "Unknown: no build that made a layer is recorded" in text_of(folder["build.html"])
    assert "Two images are needed, and none is built." in text_of(folder["diff.html"])
    page = text_of(folder[f"{TESTED}.html"])
    assert "How it runs is unknown" in page
    assert page.count("its wheel has not been read") == 8
    assert "Unknown: not all locks of the matrix can be read." in page


def test_layers_that_images_share_are_named(data: PageData) -> None:
    base = named(data, BUILT[0]).layers[0]
    assert base.shared == (BUILT[1],)  # the other one for amd64
    assert named(data, BUILT[0]).layers[2].shared == ()
    assert [p.package.name for p in named(data, BUILT[0]).layers[2].packages or ()] == ["torch"]


# the folder


def test_a_folder_of_ours_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "page"
    write_pages({"index.html": b"1", "old.html": b""}, target)
    write_pages({"index.html": b"2"}, target)
    assert {p.name for p in target.iterdir()} == {"index.html", ".buildctl-page"}
    assert (target / "index.html").read_bytes() == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["page"]


def test_an_empty_folder_is_taken_also_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pages({"index.html": b"1"}, Path())
    assert (tmp_path / "index.html").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_anything_else_is_left_alone(tmp_path: Path, kind: str) -> None:
    target, mine = tmp_path / "page", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("x")
    match kind:
        case "file":
            target.write_text("x")
        case "folder":
            mine.rename(target)
        case _:
            target.symlink_to(mine)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is not a folder that `buildctl page` wrote") as problem:
        write_pages({"index.html": b""}, target)
    assert problem.value.hint == "choose another with --out, or remove it"
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="cannot write"):
        write_pages({"index.html": b""}, tmp_path / "file" / "page")


def test_a_record_of_a_build_that_cannot_be_read_is_an_error(shown: Project) -> None:
    path = shown.layout / "builds" / "last.json"
    before = path.read_bytes()
    try:
        path.write_text('{"at": 1}')
        with pytest.raises(LayoutError, match="is not the record of a build"):
            of_layout(shown)
    finally:
        path.write_bytes(before)
