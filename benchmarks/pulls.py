"""From a registry over a slow network to the first torch result: the same content as pip and gzip make it, and ours."""

from __future__ import annotations

import shutil
from pathlib import Path

from lazy import Reads, fetch, reads_of
from measured import MADE, RATES, SMALL, Took, buildctl, fresh_store, measured, output
from plain import PLAIN, Bench, docker_bench, index_for, native
from results import Goal, Part, Row, ratio
from throttled import throttled

from buildctl.oci.layout import Layout

NAME, ARCH = ("cpu-2.6", "arm64") if SMALL else ("cuda-2.6", "amd64")
FIRST = ["python3", "-c", "import torch; print(torch.ones(3).sum())"]
THEIRS, OURS, LAZILY = "a plain `pip install` image, gzip", "ours, zstd in layers", "ours, zstd:chunked, lazily (model)"
REPOSITORIES = {THEIRS: "theirs", OURS: "ours", LAZILY: "lazy"}
NOTES = """\
`docker pull` from Debian's docker-registry on loopback, behind a proxy that lets so many bytes a second through, then
`docker run` until `torch.ones(3).sum()` is printed. All hold the same wheels on the same base. No image is in the
engine before. "Lazily" is a model and not a snapshotter: a reader of the tests' own fetches, one after the other, what
the command reads, and then the command runs; FUSE, and waiting for each read, are not in it. What
stargz-snapshotter needed is in [lazy pulls](lazy.md#what-to-expect)."""


def measure(root: Path, _: int) -> Part:
    buildctl("fetch", NAME, env={})
    rows: list[Row] = []
    with docker_bench(root) as bench:
        host, _, port = bench.registry.partition(":")
        sizes = _published(bench)
        lazily = _chunked(bench) if native() == ARCH else None
        for rate in RATES:
            with throttled(host, int(port), rate * 1e6) as wire:
                found = {what: (_first(wire.netloc, what), sizes[what]) for what in (THEIRS, OURS)}
                if lazily is not None:
                    found[LAZILY] = _lazily(wire.netloc, *lazily)
            chart = f"{NAME} pulled at {rate} MB/s, seconds to the first torch result"
            for what, (took, size) in found.items():
                than = "" if what == THEIRS else f"at {rate} MB/s: {THEIRS}"
                note = f"{size / 1e6:,.0f} MB"
                rows.append(Row(what=f"at {rate} MB/s: {what}", turns=(took,), than=than, note=note, chart=chart))
    goal = Goal(
        what="first torch result, lazily (model) against a full pull: times sooner",
        want=5,
        got=ratio(rows[0].turns, rows[2].turns) if lazily is not None else None,
        least=True,
        why="only with programs of this machine's architecture",
    )
    return Part(title="Pulled over a network", rows=tuple(rows), notes=NOTES, goals=(goal,))


def _published(bench: Bench) -> dict[str, int]:
    """Both images into the registry; bytes of each."""
    with index_for(bench, NAME, ARCH) as (index, wanted):
        bench.build(PLAIN.format(index=index, wanted=wanted), ARCH)
    _copy(bench, f"oci:{bench.out}", THEIRS)
    layout = bench.root / "dist"
    buildctl("--layout", layout, "build", NAME, "--no-load", env={})
    _copy(bench, f"oci:{layout}:{NAME}", OURS)
    found = {what: _size(place) for what, place in ((THEIRS, bench.out), (OURS, layout))}
    shutil.rmtree(bench.out)
    bench.forget()
    return found


def _chunked(bench: Bench) -> tuple[Layout, Reads]:
    """The image with zstd:chunked layers, in the registry too, and what the command reads of it."""
    folder = bench.root / "chunked"
    layout, env = Layout(folder / "dist"), fresh_store(folder / "store", *MADE)
    buildctl("--layout", layout.root, "build", NAME, "--no-load", "--compression", "zstd:chunked", env=env)
    _copy(bench, f"oci:{layout.root}:{NAME}", LAZILY)
    reads = reads_of(layout, layout.resolve(NAME, ARCH), folder / "tree", FIRST)
    shutil.rmtree(folder / "tree")
    return layout, reads


def _copy(bench: Bench, source: str, what: str) -> None:
    to = f"docker://{bench.registry}/{REPOSITORIES[what]}:1"
    output(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", source, to])


def _size(layout: Path) -> int:
    return sum(f.stat().st_size for f in (layout / "blobs" / "sha256").iterdir())


def _lazily(registry: str, layout: Layout, reads: Reads) -> tuple[Took, int]:
    took, size = fetch(registry, REPOSITORIES[LAZILY], layout, layout.resolve(NAME, ARCH), reads)
    return took.plus(reads.warm), size


def _first(registry: str, what: str) -> Took:
    image = f"{registry}/{REPOSITORIES[what]}:1"

    def pull_and_run() -> None:
        output(["docker", "pull", "-q", "--platform", f"linux/{ARCH}", image])
        said = output(["docker", "run", "--rm", "--platform", f"linux/{ARCH}", image, *FIRST])
        assert "tensor(3.)" in said, said

    took, _ = measured(pull_and_run)
    output(["docker", "rmi", "-f", image])
    output(["docker", "system", "prune", "-af"])
    return took
