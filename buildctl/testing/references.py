"""`buildctl test` outside the matrix: a reference, pulled into the store, or an image of any layout.

Expects what the image claims: in our labels, else in its environment. What it does not claim is NOT RUN. What it
answers and claims is its own word, so both are compared with its layers as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from buildctl.artifacts.bill import SBOM_KIND, packages_in_bill
from buildctl.console.log import say
from buildctl.ground.clock import now, rfc3339
from buildctl.ground.jsontext import parse_json
from buildctl.host.subject import claims_from_environment
from buildctl.lock.claims import Claims, claims_from_labels
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.registry.client import Repository
from buildctl.registry.referrers import document, referrers
from buildctl.registry.remote import bring_layers
from buildctl.registry.target import Image, Target, find_target
from buildctl.runtimes.api import Runtime
from buildctl.runtimes.choose import runtimes
from buildctl.runtimes.image import brought
from buildctl.testing.attached import attach_report
from buildctl.testing.images import TestResult, ask_image
from buildctl.testing.listener import NOBODY, Listener
from buildctl.testing.merge import LABELS
from buildctl.testing.outside import Outside, look
from buildctl.testing.probes.expected import Expected, expected_by
from buildctl.testing.probes.findings import not_run
from buildctl.testing.probes.judging_outside import claims, python
from buildctl.testing.report import Finding, Report, Status, following

_NO_CLAIM = "the image claims nothing about it"
_NO_PROMISE = "promised by buildctl's own images, not by this one"
# What our images promise besides their claims. Everything else applies to any image with PyTorch.
PROMISES = (
    "numpy", "bytecode", "any uid", "any uid's files", "home and workdir", "pip install", "locale", "certificates",
    "cuda libraries", "console scripts", "torchrun", "entrypoint", "torch.compile",
    "pip keeps torch", "read-only root", "home of root", "login shell", "standard library",
)  # fmt: skip
_CLAIMED = ("torchvision", "torchaudio", "gpu architectures", "cudnn version", "nccl version", "distributions", LABELS)


def test_targets(
    texts: Sequence[str],
    *,
    arch: str | None,
    runtime: str,
    context: str | None = None,
    attach: bool = False,
    listener: Listener = NOBODY,
) -> TestResult:
    """Test every image that these references and paths lead to, for all architectures or one. With `attach`, add the
    report to a published image, for `promote` to read. Raises LayoutError, RegistryError.
    """
    candidates = runtimes(runtime, context=context)
    reports = []
    for text in texts:
        target = find_target(text)
        assert target is not None  # noqa: S101 - the caller asked `points_elsewhere`
        for image in target.of(arch):
            say(f"testing {image.name} for {image.arch}")
            report = _test(target, image, candidates, listener)
            listener.ended(report)
            reports.append(report)
            if attach and target.repository is not None:
                _attach(target.repository, image.descriptor, report)
    return TestResult(reports=tuple(reports))


def _test(target: Target, image: Image, candidates: Sequence[Runtime], listener: Listener) -> Report:
    ref = brought(target, image)
    bring_layers(Layout(ref.layout), [ref.descriptor], f"testing {ref.name}")
    outside = look(Layout(ref.layout), ref.descriptor)
    expected = expected_of_image(image, _distributions(target, image))
    expected = replace(expected, outside=None if isinstance(outside, str) else outside)
    listener.began(ref.name)
    report = ask_image(ref, expected, candidates, listener)
    if report.verdict is not Status.NOT_RUN:  # else what needs no run would make the image PASSED
        findings = [not_run(LABELS, "no reviewed claims to compare with"), *_read(expected, outside)]
        for finding in findings:
            listener.found(finding)
        report = replace(report, findings=(*report.findings, *findings))
    return following(report, None, rfc3339(now()))


def _read(expected: Expected, outside: Outside | str) -> Iterator[Finding]:
    """Findings that need nothing to run."""
    if isinstance(outside, str):
        yield Finding(name="layers", status=Status.FAILED, detail=outside)
        return
    verdicts = {"python in layers": python(outside), "claims in layers": claims(expected, outside)}
    for name, (status, detail) in verdicts.items():
        yield Finding(name=name, status=status, detail=detail)


def _distributions(target: Target, image: Image) -> Mapping[str, str] | None:
    """As listed in the attached bill of materials; None without one."""
    if target.repository is None:
        return None
    bills = referrers(target.repository, image.descriptor.digest, SBOM_KIND)
    if not bills:
        return None
    packages = packages_in_bill(parse_json(document(target.repository, bills[0])))
    return {p.name: p.version for p in packages if p.kind == "pypi" and not p.within}


def _attach(repository: Repository, image: Descriptor, report: Report) -> None:
    if report.verdict is Status.NOT_RUN:
        say("nothing ran, so there is nothing to attach")
        return
    fresh = attach_report(replace(repository, write=True), image, report).fresh
    say("the report is attached" if fresh else "this report was already attached")


# what is expected


def expected_of_image(image: Image, distributions: Mapping[str, str] | None = None) -> Expected:
    claims = claims_from_labels(image.config.labels, image.arch)
    if claims is not None:
        return _ours(claims, image.title, distributions)
    return _theirs(claims_from_environment(image), distributions)


def _ours(claims: Claims, title: str, distributions: Mapping[str, str] | None) -> Expected:
    """Labels omit only what is not in the image. Both flavours have the same labels; the index title differs."""
    unclaimed = {} if distributions is not None else {"distributions": "no bill of materials is attached"}
    if not title:
        unclaimed["torch.compile"] = "the flavour is unknown"
    return replace(
        expected_by(claims, distributions or {}),
        never=claims.never,
        flavour="devel" if title.endswith("-devel") else "runtime",
        unclaimed=unclaimed,
    )


def _theirs(claims: Claims, distributions: Mapping[str, str] | None) -> Expected:
    unclaimed = dict.fromkeys(PROMISES, _NO_PROMISE) | dict.fromkeys(_CLAIMED, _NO_CLAIM)
    if distributions is not None:
        del unclaimed["distributions"]
    backed = {
        "torch": claims.torch,
        "python": claims.python,
        **dict.fromkeys(("cuda version", "backends", "devices"), claims.built_for),
        "no cuda": None,
    }
    return replace(
        expected_by(claims, distributions or {}),
        unclaimed=unclaimed | {name: _NO_CLAIM for name, claim in backed.items() if not claim},
    )
