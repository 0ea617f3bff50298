"""From a registry over a slow network to the first torch result: the same content as pip and gzip make it, and ours."""

from __future__ import annotations

from pathlib import Path

from measured import RATES, SMALL, Took, buildctl, measured, output
from plain import PLAIN, Bench, docker_bench, index_for
from results import Goal, Part, Row, ratio
from throttled import throttled

NAME, ARCH = ("cpu-2.6", "arm64") if SMALL else ("cuda-2.6", "amd64")
FIRST = "import torch; print(torch.ones(3).sum())"
THEIRS, OURS = "a plain `pip install` image, gzip", "ours, zstd in layers"
NOTES = """\
`docker pull` from Debian's docker-registry on loopback, behind a proxy that lets so many bytes a second through, then
`docker run` until `torch.ones(3).sum()` is printed. Both hold the same wheels on the same base. No image is in the
engine before. Starting lazily needs a snapshotter (stargz) that is not installed here."""


def measure(root: Path, _: int) -> Part:
    buildctl("fetch", NAME, env={})
    rows: list[Row] = []
    with docker_bench(root) as bench:
        host, _, port = bench.registry.partition(":")
        sizes = _published(bench)
        for rate in RATES:
            with throttled(host, int(port), rate * 1e6) as wire:
                found = {what: _first(wire.netloc, what) for what in (THEIRS, OURS)}
            chart = f"{NAME} pulled at {rate} MB/s, seconds to the first torch result"
            for what, took in found.items():
                than = "" if what == THEIRS else f"at {rate} MB/s: {THEIRS}"
                note = f"{sizes[what] / 1e6:,.0f} MB"
                rows.append(Row(what=f"at {rate} MB/s: {what}", turns=(took,), than=than, note=note, chart=chart))
    slow, fast = rows[:2]
    goals = (
        Goal(
            what="first torch result, lazily against a full pull: times sooner",
            want=5,
            got=None,
            least=True,
            why=f"no lazy snapshotter here; a full pull of ours is {ratio(slow.turns, fast.turns):.1f} times sooner",
        ),
    )
    return Part(title="Pulled over a network", rows=tuple(rows), notes=NOTES, goals=goals)


def _published(bench: Bench) -> dict[str, int]:
    """Both images into the registry; bytes of each."""
    with index_for(bench, NAME, ARCH) as (index, wanted):
        bench.build(PLAIN.format(index=index, wanted=wanted), ARCH)
    output(["skopeo", "copy", "--dest-tls-verify=false", f"oci:{bench.out}", f"docker://{bench.registry}/theirs:1"])
    buildctl("--layout", bench.root / "dist", "build", NAME, "--no-load", env={})
    layout = bench.root / "dist"
    output(["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:{NAME}", f"docker://{bench.registry}/ours:1"])
    return {
        THEIRS: sum(f.stat().st_size for f in (bench.out / "blobs" / "sha256").iterdir()),
        OURS: sum(f.stat().st_size for f in (layout / "blobs" / "sha256").iterdir()),
    }


def _first(registry: str, what: str) -> Took:
    image = f"{registry}/{'theirs' if what == THEIRS else 'ours'}:1"

    def pull_and_run() -> None:
        output(["docker", "pull", "-q", "--platform", f"linux/{ARCH}", image])
        said = output(["docker", "run", "--rm", "--platform", f"linux/{ARCH}", image, "python3", "-c", FIRST])
        assert "tensor(3.)" in said, said

    took, _ = measured(pull_and_run)
    output(["docker", "rmi", "-f", image])
    output(["docker", "system", "prune", "-af"])
    return took
