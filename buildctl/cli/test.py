"""Commands that ask images what torch reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from buildctl.cli.commands import command
from buildctl.cli.options import (
    Options,
    answer,
    arch_option,
    as_text,
    context_option,
    environment_option,
    json_option,
    names_argument,
    runtime_option,
    say_next,
    targets_argument,
)
from buildctl.ground.errors import ExitCode, UsageError


@command("Ask images what torch reports, and compare with the tag")
@targets_argument
@arch_option
@runtime_option
@context_option
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings as JUnit XML, too.")
@environment_option
@click.option("--attach", is_flag=True, help="Add the report to the published image, where `promote` reads it.")
@json_option
@click.pass_obj
def test(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    runtime: str,
    context: str | None,
    junit: Path | None,
    path: Path | None,
    attach: bool,
    as_json: bool,
) -> None:
    """Run the probes inside the images and compare what torch reports with what the tag says.

    NAMES are those of the matrix, references to a registry, PATH:NAME of an OCI layout, or env:PATH, an environment on
    this machine: a Python, a virtual environment or a conda environment. All but the first need no project, and what
    such an image or environment does not claim is NOT RUN.

    A native environment that is named (mps-2.6) is asked without a container, on a Mac. A finding is PASSED, FAILED, or
    NOT RUN with the reason; NOT RUN is never PASSED. What PASSED is only counted; -v shows it. Exit code 1: something
    FAILED; 3: one could not be asked anything.

    \b
    Examples:
      buildctl test cuda-2.6 cpu-2.6
      buildctl test --runtime sandbox --junit report.xml
      buildctl test cuda-2.6 --context gpu-box     on that machine, moved there
      buildctl test mps-2.6              what `buildctl native mps-2.6` made
      buildctl test registry.example/pytorch:cuda-2.6 --attach   before `promote`
      buildctl test env:~/miniforge3/envs/torch    no container; by what it claims
    """
    from buildctl.cli.answers.findings import Printed
    from buildctl.cli.answers.summary import add_summary
    from buildctl.console import log
    from buildctl.matrix.matrix import parse_arch
    from buildctl.registry.target import points_elsewhere
    from buildctl.testing.environments import names_environment, test_environments
    from buildctl.testing.images import TestResult, test_images
    from buildctl.testing.listener import NOBODY

    environments = [name for name in names if names_environment(name)]
    elsewhere = [name for name in names if name not in environments and points_elsewhere(name)]
    ours = [name for name in names if name not in elsewhere and name not in environments]
    if environments and (arch or context or runtime != "auto"):
        raise UsageError("env:PATH runs here as it is: without --arch, --context and --runtime")
    if attach and (ours or not elsewhere):
        raise UsageError("--attach is for references: publish attaches the reports on images of the layout")
    result = TestResult(reports=())
    printed = Printed(everything=log.level() is log.Level.VERBOSE)
    with nullcontext(NOBODY) if as_json else printed as listener:
        if ours or not names:
            result = test_images(
                options.open(), ours, arch=arch, runtime=runtime, context=context, path=path, listener=listener
            )
        if environments:
            asked = test_environments(environments, listener=listener)
            result = TestResult(reports=(*result.reports, *asked))
        if elsewhere:
            from buildctl.testing.references import test_targets

            one = parse_arch(arch) if arch else None
            others = test_targets(
                elsewhere, arch=one, runtime=runtime, context=context, attach=attach, listener=listener
            )
            result = TestResult(reports=(*result.reports, *others.reports))
    if junit is not None:
        result.write_junit(junit)
    if as_json:
        click.echo(as_text(result.to_json()))
    add_summary(result)
    if result.exit_code == ExitCode.OK and ours and all(report.runtime != "native" for report in result.reports):
        say_next(f"buildctl publish {' '.join(ours)} --to REGISTRY/REPOSITORY")
    sys.exit(result.exit_code)


@command("Take in reports of other machines, say one with a GPU")
@click.argument("sources", nargs=-1, required=True, metavar="FILE|REFERENCE...")
@click.pass_obj
def report(options: Options, sources: Sequence[str]) -> None:
    """Take in what other machines found out, so that `matrix` and `publish` know it here.

    FILE is a report of `buildctl test` (dist/reports/NAME.json, or what its --json prints), REFERENCE a published image
    with reports attached. About the same digest they are merged: FAILED counts, and so does PASSED where here it is NOT
    RUN. About another digest they say when a finding last ran.

    \b
    Examples:
      buildctl report gpu-server/cuda-2.6-amd64.json
      buildctl report registry.example/pytorch:cuda-2.6
    """
    from buildctl.testing.kept import bring

    for line in bring(options.open(), sources):
        click.echo(line)


@command("Export a model in each image, and run it in the others")
@names_argument
@arch_option
@runtime_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the exported files there, a folder per cell.",
)
@environment_option
@context_option
@json_option
@click.pass_obj
def portability(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    runtime: str,
    output: Path | None,
    path: Path | None,
    context: str | None,
    as_json: bool,
) -> None:
    """Export a model in each image, run it in every other, and compare the numbers: TorchScript, torch.export, ONNX.

    Between images of one torch version it must work; a newer torch must run an older one's TorchScript; the rest is
    shown. ONNX needs the extra `onnx` in matrix.yaml. Exit code 1: something FAILED; 3: an image could not be asked.

    \b
    Examples:
      buildctl portability cuda-2.6 cpu-2.6      from amd64 to arm64 and back
      buildctl portability --output models       every image that is built
    """
    from buildctl.testing.portability import check_portability

    project = options.open()
    result = check_portability(project, names, arch=arch, runtime=runtime, output=output, path=path, context=context)
    answer(result, as_json=as_json)
    sys.exit(result.exit_code)


COMMANDS = (test, report, portability)
