"""`buildctl page` in a real Chromium: what a reader sees, hears and does, and that nothing leaves the page."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from buildctl.host.catalogue import Subject, catalogue
from buildctl.host.facts import Host, read_host
from buildctl.host.verdict import decide
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.publish.diff import compare
from buildctl.publish.page.collect import of_layout, of_registry
from buildctl.publish.page.machines import choices
from buildctl.publish.page.write import pages, write_pages
from buildctl.testing.report import Status
from tests.conftest import ROOT, buildctl
from tests.support.browser import browser, complaints, requested, show
from tests.support.pages import BUILT, TESTED, page_project
from tests.support.projects import Small
from tests.support.publishing import push, repository
from tests.support.registry import Proxy

HOSTS = sorted((ROOT / "tests" / "support" / "hosts").glob("*.json"))
KINDS = ("index", TESTED, "mps-2.6-arm64", "check", "diff", "sizes", "build")
# WCAG 2.2, "relative luminance" and "contrast ratio", over every element with a text of its own; what lies under a text
# is the first opaque background above it, or the rectangles that come before it in a drawing
CONTRAST = """
const parts = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const above = [];
  for (let e = element; e; e = e.parentElement) above.unshift(getComputedStyle(e).backgroundColor);
  return above.map(parts).reduce((under, one) => over(one.length === 3 ? [...one, 1] : one, under), [255, 255, 255]);
};
const low = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const box = element.getBoundingClientRect();
  if (!own || !box.width || element.closest(".hidden, .skip, option, title, noscript") || element.disabled) continue;
  const style = getComputedStyle(element);
  const drawing = element.closest("g");
  let under = ground(element);
  if (drawing) {
    const rects = [...drawing.ownerSVGElement.querySelectorAll("rect")].filter((rect) => {
      const r = rect.getBoundingClientRect();
      const [x, y] = [box.left + 1, box.top + box.height / 2];
      return rect.compareDocumentPosition(element) & 4 && r.left <= x && r.right >= x && r.top <= y && r.bottom >= y;
    });
    for (const rect of rects) under = over(parts(getComputedStyle(rect).fill), under);
  }
  const colour = over(parts(drawing ? style.fill : style.color), under);
  const [light, dark] = [luminance(colour), luminance(under)].sort((x, y) => y - x);
  const ratio = (light + 0.05) / (dark + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  const what = `${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}`;
  if (ratio < (large ? 3 : 4.5)) low.push(`${what} ${ratio.toFixed(2)}`);
}
return low;
"""


# picks in the three lists as a person does, and reads what is then on the page
CHOOSE = """
lists.forEach((list, at) => {
  list.value = String(arguments[0][at]);
  list.dispatchEvent(new Event("change", {bubbles: true}));
});
const texts = (item) => [item.querySelector("h3").firstChild.data, item.querySelector(".chip").textContent,
  item.querySelector("p").textContent, item.querySelector(".step code").textContent];
return [chosen(), [...document.querySelectorAll("#verdicts > li")].map(texts)];
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return page_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def folder(shown: Project) -> Path:
    write_pages(pages(of_layout(shown)), shown.layout / "page")
    return shown.layout / "page"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as found:
        yield found


def ask(chrome: Chrome, script: str, *arguments: object) -> Any:
    return chrome.execute_script(script, *arguments)


@pytest.fixture(scope="module")
def subjects(shown: Project) -> list[Subject]:
    return catalogue(ROOT, shown.layout)


def expected(subjects: list[Subject], host: Host) -> dict[str, tuple[str, str, str]]:
    return {v.name: (str(v.kind), v.reason, v.next_step) for v in (decide(s, host, subjects) for s in subjects)}


def said(chrome: Chrome, *hosts: object) -> list[dict[str, tuple[str, str, str]]]:
    found = ask(chrome, "return arguments[0].map(verdicts)", list(hosts))
    return [{v["name"]: (v["verdict"], v["reason"], v["nextStep"]) for v in each} for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_and_no_page_is_wider_than_a_phone(
    folder: Path, chrome: Chrome, scheme: str
) -> None:
    for name, width in itertools.product(KINDS, (1280, 390)):
        show(chrome, folder / f"{name}.html", scheme=scheme, width=width)
        assert ask(chrome, CONTRAST) == [], f"{name} at {width}"
        assert ask(chrome, "return document.documentElement.scrollWidth - innerWidth") <= 0, f"{name} at {width}"


def test_no_request_leaves_the_folder_and_nothing_is_refused(folder: Path, chrome: Chrome) -> None:
    requested(chrome), complaints(chrome)
    for path in sorted(folder.glob("*.html")):
        show(chrome, path)
    asked = set(requested(chrome))
    assert len(asked) > len(list(folder.glob("*.html")))
    assert [url for url in asked if not url.startswith(folder.as_uri())] == []
    assert complaints(chrome) == []


def test_what_an_image_prints_is_text(folder: Path, chrome: Chrome) -> None:
    show(chrome, folder / f"{TESTED}.html")
    assert chrome.title.startswith("cuda-2.6 on linux/amd64")
    assert "tricked" in chrome.find_element(By.CSS_SELECTOR, ".findings").text


def test_the_bill_of_materials_is_searched(folder: Path, chrome: Chrome) -> None:
    show(chrome, folder / f"{TESTED}.html")
    chrome.find_element(By.ID, "search").send_keys("num bsd")
    rows = [row for row in chrome.find_elements(By.CSS_SELECTOR, "#packages tbody tr") if row.is_displayed()]
    assert [row.text.split()[0] for row in rows] == ["numpy"]
    assert chrome.find_element(By.CSS_SELECTOR, "[data-count]").text == "1 of 16"


def test_the_digest_is_copied_and_the_button_says_so(folder: Path, chrome: Chrome, shown: Project) -> None:
    show(chrome, folder / f"{TESTED}.html")
    button = chrome.find_element(By.CSS_SELECTOR, "button[aria-label='Copy: the digest']")
    button.send_keys(Keys.ENTER)  # by keyboard
    WebDriverWait(chrome, 5).until(lambda _: button.text == "Copied")
    ask(chrome, "document.body.insertAdjacentHTML('afterbegin', '<textarea id=paste></textarea>')")
    chrome.find_element(By.ID, "paste").send_keys(Keys.CONTROL, "v")
    digest = Layout(shown.layout).resolve(TESTED).digest
    assert chrome.find_element(By.ID, "paste").get_property("value") == str(digest)


def test_every_page_is_reached_and_used_by_keyboard(folder: Path, chrome: Chrome) -> None:
    show(chrome, folder / "index.html")
    focused = []
    for _ in range(8):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        focused.append(chrome.switch_to.active_element.text)
        assert ask(chrome, "return getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert focused[0] == "Skip to content"
    assert focused[2:7] == ["Images", "Will it run?", "Compare", "Sizes", "Build"]
    chrome.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(chrome, 5).until(lambda _: chrome.current_url.endswith(f"/{TESTED}.html"))


def test_what_is_not_a_word_is_named_for_a_screen_reader(folder: Path, chrome: Chrome) -> None:
    for name in KINDS:
        show(chrome, folder / f"{name}.html")
        tree = chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        wanted = {"button", "link", "textbox", "searchbox", "combobox", "img", "image", "navigation"}
        seen = [n for n in tree if not n.get("ignored") and n["role"]["value"] in wanted]
        assert [n["role"]["value"] for n in seen if not n.get("name", {}).get("value")] == []
        assert [n for n in tree if n.get("role", {}).get("value") == "main"]
        assert ask(chrome, "return document.querySelectorAll('h1').length") == 1


def test_a_cell_that_cannot_exist_leads_to_its_reason(folder: Path, chrome: Chrome) -> None:
    show(chrome, folder / "index.html")
    link = chrome.find_element(By.CSS_SELECTOR, "td[data-on='cuda · arm64'] a.why")
    link.click()
    assert "before 2.11 the linux/aarch64 wheels" in ask(chrome, "return document.querySelector(':target').innerText")


def test_recorded_hosts_get_the_answers_of_check(folder: Path, chrome: Chrome, subjects: list[Subject]) -> None:
    show(chrome, folder / "check.html")
    answers = said(chrome, *(json.loads(path.read_bytes()) for path in HOSTS))
    assert len(answers) > 15
    for path, answer in zip(HOSTS, answers, strict=True):
        assert answer == expected(subjects, read_host(path)), path.stem


def test_hosts_that_nobody_recorded_get_the_answers_of_check(
    folder: Path, chrome: Chrome, subjects: list[Subject]
) -> None:
    """Facts of recorded hosts, mixed; what the page cannot tell it says."""
    show(chrome, folder / "check.html")
    recorded = [json.loads(path.read_bytes()) for path in HOSTS]
    keys = sorted({key for host in recorded for key in host})
    dice = random.Random(7)
    mixed = [{key: value for key in keys if (value := dice.choice(recorded).get(key)) is not None} for _ in range(400)]
    told = 0
    for facts, answers in zip(mixed, said(chrome, *mixed), strict=True):
        wanted = expected(subjects, Host.from_json(facts, "mixed"))
        known = {name: answer for name, answer in answers.items() if answer[0] is not None}
        assert known == {name: wanted[name] for name in known}, facts
        told += len(known)
    assert told > 390 * len(subjects)


def test_the_three_lists_give_the_answers_of_check(folder: Path, chrome: Chrome, subjects: list[Subject]) -> None:
    show(chrome, folder / "check.html")
    last = [len(one) - 1 for one in choices().values()]
    for numbers in ((0, 0, 0), (0, 3, 2), (0, 5, 8), (1, 5, 0), (2, 6, 1), (3, 0, 0), (5, 7, 0), (6, 7, 0), (0, 5, -1)):
        at = [number % (most + 1) for number, most in zip(numbers, last, strict=True)]
        facts, listed = ask(chrome, CHOOSE, at)
        wanted = expected(subjects, Host.from_json(facts, "chosen"))
        assert {name: tuple(answer) for name, *answer in listed} == wanted, at


def test_a_file_of_facts_is_dropped_or_chosen(folder: Path, chrome: Chrome, tmp_path: Path) -> None:
    show(chrome, folder / "check.html")
    chrome.find_element(By.ID, "file").send_keys(str(HOSTS[0].with_name("gh200.json")))
    WebDriverWait(chrome, 5).until(lambda _: "gh200" in chrome.find_element(By.ID, "about").text)
    assert "GH200 480GB (sm_90), driver 580.95.05 >= 580" in chrome.find_element(By.ID, "verdicts").text
    ask(
        chrome,
        """const data = new DataTransfer(); data.items.add(new File([arguments[0]], "mine.json"));
        const drop = document.getElementById("drop");
        for (const name of ["dragover", "drop"])
          drop.dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));""",
        HOSTS[0].with_name("h200.json").read_text(),
    )
    WebDriverWait(chrome, 5).until(lambda _: "mine.json" in chrome.find_element(By.ID, "about").text)
    assert "NVIDIA H200 (sm_90)" in chrome.find_element(By.ID, "verdicts").text
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"hello": 1}')
    chrome.find_element(By.ID, "file").send_keys(str(wrong))
    WebDriverWait(chrome, 5).until(lambda _: chrome.find_element(By.ID, "problem").text)
    assert "buildctl check --save" in chrome.find_element(By.ID, "problem").text


def test_any_two_images_differ_as_diff_says(folder: Path, chrome: Chrome, shown: Project) -> None:
    show(chrome, folder / "diff.html")
    for a, b in itertools.permutations(BUILT, 2):
        wanted = compare(lambda: shown, a, b, arch="amd64").to_json()
        found = ask(chrome, "return compared(images[arguments[0]], images[arguments[1]])", a, b)
        for key in ("packages", "configuration", "layers"):
            listed = [[c["what"], c["before"] or "", c["after"] or ""] for c in wanted[key]]
            assert found[key] == listed, f"{key} of {a} and {b}"
        assert (found["shared"], found["same"]) == (wanted["sharedBytes"], wanted["same"])
    Select(chrome.find_element(By.ID, "b")).select_by_visible_text("cpu-2.6-arm64")
    chrome.find_element(By.ID, "swap").click()
    assert "added label dev.buildctl.cuda 12.4" in chrome.find_element(By.ID, "changes").text
    Select(chrome.find_element(By.ID, "b")).select_by_visible_text("cpu-2.6-arm64")
    assert chrome.find_element(By.ID, "summary").text == "Identical images, byte for byte."


def test_a_page_of_a_registry_shows_what_is_published(
    project: Small, front: Proxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    to = repository(front, request)
    project.report("cuda-2.6-amd64", compile=Status.NOT_RUN)
    push(project, to, "cuda-2.6-amd64", revision="r1", allow_not_run=frozenset({"compile"}))
    data = of_registry(project.project, to, "r1", None)
    cuda, cpu = data.images
    assert cuda.side is not None
    assert cuda.side.descriptor.digest == project.images()["cuda-2.6-amd64"].digest
    assert (str(cuda.state), str(cpu.state)) == ("partly", "unbuilt")
    assert cuda.signature.status is Status.NOT_RUN
    moving = {tag.name: tag.problem for tag in cuda.tags or ()}
    assert moving["cuda-2.6"] == ""
    assert moving["2.6"] == "not in the registry"  # cpu-2.6 is missing, so it was not set
    text = pages(data)["cuda-2.6-amd64.html"].decode()
    assert f"docker pull {to.reference.name}@{cuda.side.descriptor.digest}" in text
    project.build("cuda-2.6-amd64")
    project.report("cuda-2.6-amd64")
    push(project, to, "cuda-2.6-amd64", revision="r2")
    old = of_registry(project.project, replace(to), "r1", None).images[0]
    assert "points at another image" in {t.name: t.problem for t in old.tags or ()}["cuda-2.6"]


def test_the_command_writes_the_same_bytes_twice(project: Small) -> None:
    done = buildctl("--project", project.project.root, "page", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    place = project.project.layout / "page"
    assert done.stdout.strip() == str(place / "index.html")
    written = {path.name: path.read_bytes() for path in place.iterdir() if not path.name.startswith(".")}
    assert written == pages(of_layout(project.project))


def test_the_wheel_of_buildctl_has_what_pages_are_made_of(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    folder = "buildctl/publish/page"
    there = {
        str(path.relative_to(ROOT)) for name in ("templates", "assets") for path in (ROOT / folder / name).iterdir()
    }
    assert len(there) > 10
    assert there <= set(zipfile.ZipFile(wheel).namelist())
