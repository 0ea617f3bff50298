"""One thing of an image changes: a label, a small package, the base. Everything else is in the store."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from measured import MADE, ROOT, SMALL, Took, buildctl, fresh_store
from results import Part, Row

NAME = "cpu-2.6" if SMALL else "cuda-2.6"
NOTES = """\
The project is a copy with one image. Locks are updated, and what they add is downloaded, before the clock starts.
`rebase` moves the built image to the new base without building it; without `--locked` it first asks Debian's archive,
for every architecture of the base, and unpacks the base if a package has moved."""


def change(root: Path, _: int) -> Part:
    env, project = fresh_store(root / "store", *MADE), root / "project"
    project.mkdir()
    for folder in ("images", "templates"):
        shutil.copytree(ROOT / folder, project / folder)
    matrix = (ROOT / "matrix.yaml").read_text()
    (project / "matrix.yaml").write_text(matrix)
    _built(project, env)
    label = matrix + f"\nimages:\n  {NAME}:\n    labels: {{com.example.team: a}}\n"
    package = label + "    packages: [tqdm]\n"
    base = package.replace("      - tzdata\n", "      - tzdata\n      - less\n")
    rows = [Row(what="a label changes", turns=(_after(project, label, env),))]
    rows.append(Row(what="a small package is added (tqdm)", turns=(_after(project, package, env, made=True),)))
    rebased = _after(project, base, env, command=("rebase", NAME, "--locked"))
    rows.append(Row(what="the base gets a package (less), `rebase --locked`", turns=(rebased,)))
    rows.append(Row(what="the same, `build`: only its Dockerfile changes now", turns=(_built(project, env),)))
    return Part(title=f"One change, then `build {NAME}`", rows=tuple(rows), notes=NOTES)


def _after(
    project: Path, matrix: str, env: dict[str, str], command: tuple[str, ...] = (), *, made: bool = False
) -> Took:
    (project / "matrix.yaml").write_text(matrix)
    for word in ("lock", "claims", "render", "fetch"):
        buildctl(word, NAME, env=env, cwd=project)
    os.sync()
    return buildctl(*command, env=env, cwd=project)[0] if command else _built(project, env, made=made)


def _built(project: Path, env: dict[str, str], *, made: bool = False) -> Took:
    took, said = buildctl("build", NAME, "--no-load", "--locked", "--json", env=env, cwd=project)
    if made and not json.loads(said)["images"][0]["layersMade"]:
        sys.exit("the user's store has the layer that was to be made: this image was built here before")
    return took
