"""Comparing what a native environment reports about MPS: NOT RUN if it does not work on this Mac, FAILED if it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import TOLERANCE, Verdict, failed, passed
from buildctl.testing.report import Status

# Hosted runners are virtual machines that show an Apple GPU but give it no memory, not even the few bytes that the
# probes ask for: https://github.com/actions/runner-images/issues/9918
NO_MEMORY = re.compile(r"MPS backend out of memory.*")
VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK"


def built(_: Expected, value: Any) -> Verdict:
    if value["built"] is not True:
        return failed("expected torch to be built for MPS, but it reports that it is not")
    return passed("built for MPS")


def available(_: Expected, value: Any) -> Verdict:
    """`value` holds the answers to mps and mps_tensor."""
    reason = unavailable(value["mps"])
    verdict = reason or _compared(value["mps_tensor"], "a tensor", value["mps"])
    return verdict if verdict[0] is not Status.PASSED else passed(f"available on {_where(value['mps'])}")


def matmul(_: Expected, value: Any) -> Verdict:
    return unavailable(value["mps"]) or _compared(value["mps_matmul"], "a matrix product", value["mps"])


def convolution(_: Expected, value: Any) -> Verdict:
    return unavailable(value["mps"]) or _compared(value["mps_convolution"], "a convolution", value["mps"])


def autograd(_: Expected, value: Any) -> Verdict:
    return unavailable(value["mps"]) or _compared(value["mps_autograd"], "a gradient", value["mps"])


def fallback(_: Expected, value: Any) -> Verdict:
    """What an operation without a Metal kernel does, and how the user's own shell configures it."""
    about, shell = value["mps"], _shell(value["mps"]["shell"])
    if reason := unavailable(about):
        return reason[0], f"{reason[1]}; {shell}"
    answer = value["mps_fallback"]
    if "refused" in answer:
        return _compared(answer, "", about)
    status, detail = _compared(answer["with"], f"torch.linalg.qr with {VARIABLE}=1", about)
    if status is not Status.PASSED:
        return status, f"{detail}; {shell}"
    without = "computed on the CPU, which fails" if "refused" in answer["without"] else "computed, as"
    return passed(f"with {VARIABLE}=1 torch.linalg.qr is {without} without it; {shell}")


def unavailable(about: Mapping[str, Any]) -> Verdict | None:
    """Why MPS cannot compute anything; the finding `mps built` covers builds without it."""
    if about["built"] is not True:
        return Status.NOT_RUN, "this torch is not built for MPS"
    if about["available"] is not True:
        return Status.NOT_RUN, f"torch is built for MPS but finds no device on {_where(about)}"
    return None


def _compared(answer: Mapping[str, Any], what: str, about: Mapping[str, Any]) -> Verdict:
    if refused := answer.get("refused"):
        if found := NO_MEMORY.search(str(refused)):
            text = found[0].partition(" Use PYTORCH_")[0].rstrip(".")
            return Status.NOT_RUN, f"MPS does not work on {_where(about)}: {text}"
        return failed(f"expected {what} on mps, torch refuses: {refused}")
    error = answer["error"]
    if not error <= TOLERANCE:  # also when it is not a number
        return failed(f"on mps: expected an error of at most {TOLERANCE:g} for {what}, but it computes {error:.3g}")
    return passed(f"relative error {error:.1e} against float64 on the CPU")


def _where(about: Mapping[str, Any]) -> str:
    system = f"macOS {about['macos']}" if about["macos"] else "this system"
    return f"{system}, a virtual machine" if about["virtual"] else system


def _shell(variables: Mapping[str, str]) -> str:
    found = [f"{name}={value}" for name, value in sorted(variables.items())]
    if VARIABLE not in variables:
        found.insert(0, f"{VARIABLE} is not set")
    return f"in your shell {', '.join(found)}"
