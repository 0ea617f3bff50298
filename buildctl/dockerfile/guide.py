"""images/README.md: which files are in that folder, which command writes each, and what to edit instead."""

from __future__ import annotations

from dataclasses import dataclass

GUIDE = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A kind of file below images/. `path` has NAME (of an image), BASE, FLAVOUR and ARCH for what varies; `source` is
    what a person edits to change it.
    """

    path: str
    what: str
    command: str
    source: str


MATRIX, TEMPLATE = "`matrix.yaml`", "`templates/`, `matrix.yaml`"
SCRIPTS = "comes with buildctl (`buildctl/dockerfile/common/`)"
LOCK, RENDER = "buildctl lock", "buildctl render"
WRITTEN = (
    Written(
        path="NAME/Dockerfile",
        what="how the image is made, for all architectures and flavours",
        command=RENDER,
        source=TEMPLATE,
    ),
    Written(path="NAME/constraints.txt", what="what pip and uv keep in the image", command=RENDER, source=MATRIX),
    Written(path="NAME/requirements.ARCH.txt", what="every wheel, by hash", command=LOCK, source=MATRIX),
    Written(
        path="NAME/claims.ARCH.json",
        what="what the locked torch says of itself; review it like code",
        command="buildctl claims",
        source=MATRIX,
    ),
    Written(
        path="NAME/FLAVOUR.ARCH.packages",
        what="the Debian packages that the image adds (`apt`), by hash",
        command=LOCK,
        source=MATRIX,
    ),
    Written(
        path="NAME/FLAVOUR.ARCH.recorded",
        what="what the maintainer scripts of those packages did when they were run; review it like code",
        command=LOCK,
        source=MATRIX,
    ),
    Written(
        path="bases/BASE/FLAVOUR.ARCH.packages",
        what="the Debian packages of a base, by hash",
        command=LOCK,
        source=MATRIX,
    ),
    Written(
        path="bases/BASE/FLAVOUR.ARCH.image",
        what="the digest of a base that is an image, and what is inside",
        command=LOCK,
        source=MATRIX,
    ),
    Written(
        path="common/entrypoint",
        what="what `docker run` starts",
        command=RENDER,
        source=SCRIPTS,
    ),
    Written(
        path="common/install-wheels",
        what="the install step of every Dockerfile",
        command=RENDER,
        source=SCRIPTS,
    ),
    Written(
        path="common/python",
        what="for a base that has `python3` only",
        command=RENDER,
        source=SCRIPTS,
    ),
    Written(
        path=GUIDE, what="this page", command=RENDER, source="comes with buildctl (`buildctl/dockerfile/guide.py`)"
    ),
)
HEAD = """\
# images/

Written by `buildctl render`. Every file in this folder is generated and committed, so that a change can be reviewed; do
not edit any of them. This folder is also the build context of the Dockerfiles: own wheels and files that `images` in
`matrix.yaml` names are here as well.

"""
TAIL = """
`buildctl build` runs all of these commands where something is missing or stale. `buildctl lock --check`,
`buildctl claims --check` and `buildctl render --check` show what differs and change nothing.
"""


def guide() -> str:
    """The text of images/README.md; the same for every project."""
    rows = [f"| `{row.path}` | {row.what} | `{row.command}` | {row.source} |" for row in WRITTEN]
    return (
        HEAD + "\n".join(["| file | content | written by | edit instead |", "|---|---|---|---|", *rows]) + "\n" + TAIL
    )
