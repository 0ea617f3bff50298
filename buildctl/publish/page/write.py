"""Fills the templates and writes the folder: all of it, or nothing."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from buildctl import __version__
from buildctl.console.table import size
from buildctl.ground.errors import UsageError
from buildctl.oci.files import translated
from buildctl.oci.image import Descriptor
from buildctl.publish.diff import settings, shown, steps, versions
from buildctl.publish.page import drawing, matrix_view
from buildctl.publish.page.generations import WORDS, supported
from buildctl.publish.page.machines import FIRST, choices, start_command
from buildctl.publish.page.value import PageData, PageImage, PageState
from buildctl.publish.page.verdicts import verdict_table
from buildctl.testing.report import Finding, Report, Status

_HERE = Path(__file__).parent
_MARK = ".buildctl-page"  # a file in folders that were written here, and may be replaced
_ORDER = (Status.FAILED, Status.NOT_RUN, Status.PASSED)
STATES = {
    PageState.PASSED: "tested: PASSED",
    PageState.PARTLY: "PASSED, {} NOT RUN",
    PageState.FAILED: "tested: FAILED",
    PageState.UNTESTED: "not tested",
    PageState.UNBUILT: "not built",
}


def pages(data: PageData) -> dict[str, bytes]:
    """The whole folder by file name."""
    environment = _environment(data)
    common = {"data": data, "version": __version__}
    views: dict[str, dict[str, Any]] = {
        "index": {
            "columns": matrix_view.columns(data),
            "rows": matrix_view.rows(data),
            "why": matrix_view.reasons(data),
            "counts": {str(s): sum(i.report.count(s) for i in data.images if i.report) for s in Status},
        },
        "check": {"choices": choices(), "first": FIRST},
        "diff": {"built": [image for image in data.images if image.side]},
        "sizes": _sizes(data),
        "build": {"bars": drawing.timeline(data.build) if data.build else []},
    }
    out = {f"{name}.html": _page(environment, name, {**common, **view, "here": name}) for name, view in views.items()}
    for image in data.images:
        out[href(image)] = _page(environment, "image", {**common, **_image(data, image), "here": "index"})
    for path in sorted((_HERE / "assets").iterdir()):
        out[path.name] = path.read_bytes()
    out["check-data.js"] = _script({"table": verdict_table(data.subjects).to_json(), "choices": choices()})
    out["diff-data.js"] = _script({i.cell.id: _side(i) for i in data.images if i.side})
    return out


def refuse_foreign(target: Path) -> None:
    """Raises UsageError for a file, or a folder with anything that was not written here."""
    if target.is_symlink() or (target.exists() and not (target / _MARK).is_file() and not _empty(target)):
        raise UsageError(
            f"{target} exists, and is not a folder that `buildctl page` wrote",
            hint="choose another with --out, or remove it",
        )


def write_pages(found: Mapping[str, bytes], target: Path) -> None:
    """Writes `target`, or replaces it as a whole. Raises UsageError as `refuse_foreign` does."""
    refuse_foreign(target)
    target = target.resolve()  # "." has no name to put others next to
    with translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".tmp-{target.name}-{secrets.token_hex(4)}{end}") for end in ("", "-old"))
    try:
        with translated(target, sum(map(len, found.values()))):
            fresh.mkdir()
            for name, content in {**found, _MARK: b""}.items():
                (fresh / name).write_bytes(content)
            if target.exists():
                target.replace(old)
            fresh.replace(target)
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def href(image: PageImage) -> str:
    return f"{image.cell.id}.html"


def _environment(data: PageData) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": lambda count: size(count).replace(" ", "\N{NO-BREAK SPACE}"),
        "href": href,
        "ticks": _ticks,
        "state": _state,
        "layer_name": drawing.layer_name,
        "moment": lambda text: text.replace("T", " ").removesuffix("Z") + " UTC",
        "fixed": lambda number: f"{number:.1f}".removesuffix(".0"),
        "bytes_of": lambda image: sum(layer.descriptor.size for layer in image.layers),
    }
    environment.globals |= {"hrefs": {image.cell.id: href(image) for image in data.images}, "State": PageState}
    return environment


def _page(environment: jinja2.Environment, name: str, values: Mapping[str, Any]) -> bytes:
    return (environment.get_template(f"{name}.html").render(values).rstrip() + "\n").encode()


def _ticks(text: str) -> Markup:
    """Words in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _state(image: PageImage) -> str:
    return STATES[image.state].format(image.report.count(Status.NOT_RUN) if image.report else 0)


def _script(value: Any) -> bytes:
    """Data that a page loads as a script, because a page from a file may not fetch one."""
    return b"window.buildctl = " + json.dumps(value, separators=(",", ":")).encode() + b";\n"


def _image(data: PageData, image: PageImage) -> dict[str, Any]:
    claims, there = image.claims, image.side is not None
    return {
        "image": image,
        "support": supported(claims) if claims is None or claims.kind.architectures else (),
        "words": WORDS,
        "start": start_command(image.cell, claims, data.subjects, there=there) if claims else "",
        "get": _get(data, image),
        "findings": _findings(image.report),
        "counts": _counts(image.report),
        "tiles": {shape: drawing.image_tiles(image, box) for shape, box in drawing.SHAPES.items()},
        "shapes": drawing.SHAPES,
    }


def _counts(report: Report | None) -> str:
    """`42 passed, 2 not run`"""
    order = (Status.FAILED, Status.PASSED, Status.NOT_RUN)
    found = [(report.count(status), str(status).lower()) for status in order] if report else []
    return ", ".join(f"{count} {word}" for count, word in found if count)


def _findings(report: Report | None) -> list[Finding]:
    """What needs attention first."""
    found = report.findings if report else ()
    return sorted(found, key=lambda finding: _ORDER.index(finding.status))


def _get(data: PageData, image: PageImage) -> list[tuple[str, str]]:
    """(what it does, the command) for each way to get the image; none for an environment or what is not there."""
    if image.side is None or image.cell.native:
        return []
    digest = image.side.descriptor.digest
    if not data.registry:
        copy = f"skopeo copy oci:{data.place}:{image.cell.id} docker-daemon:{data.title}:{image.cell.image}"
        return [("Load it into Docker from the layout", copy)]
    moving = [tag for tag in image.tags or () if tag.name == image.cell.image and not tag.problem]
    by_tag = [("Pull it by its tag", f"docker pull {data.place}:{tag.name}") for tag in moving]
    return [*by_tag, ("Pull exactly this image", f"docker pull {data.place}@{digest}")]


def _sizes(data: PageData) -> dict[str, Any]:
    stored = drawing.stored_layers(data.images)
    return {
        "stored": stored,
        "tiles": {shape: drawing.stored_tiles(stored, box) for shape, box in drawing.SHAPES.items()},
        "shapes": drawing.SHAPES,
        "bars": drawing.size_bars(data),
        "once": sum(one.layer.descriptor.size for one in stored),
        "alone": sum(one.layer.descriptor.size * len(one.cells) for one in stored),
    }


def _side(image: PageImage) -> dict[str, Any]:
    """What `buildctl diff` compares, ready to be compared."""
    side = image.side
    assert side is not None  # noqa: S101 - the caller chose those
    layers: list[tuple[str, Descriptor]] = list(steps(side).items())
    return {
        "digest": str(side.descriptor.digest),
        "size": side.size,
        "packages": None if side.packages is None else versions(side.packages),
        "configuration": settings(side.config),
        "layers": [[step, str(layer.digest), layer.size, shown(layer)] for step, layer in layers],
    }
