from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from buildctl.testing.probes.checks import CHECKS
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.findings import names_of
from buildctl.testing.probes.judging_onnx import onnx_model, onnx_runtime
from buildctl.testing.probes.judging_packages import distributions
from buildctl.testing.report import Status

EXPECTED = Expected(
    torch="2.6.0",
    python="3.13",
    arch="arm64",
    accelerator="cpu",
    distributions={"onnxruntime": "1.32.0", "onnx": "1.23.2"},
    extras=("onnx",),
)
MAC = replace(EXPECTED, accelerator="mps", system="Darwin", native=True)
CPU = ["AzureExecutionProvider", "CPUExecutionProvider"]
RUNTIME = {"version": "1.32.0", "providers": CPU, "telemetry": False}
MODEL = {"onnx": "1.23.2", "used": ["CPUExecutionProvider"], "error": 1e-8}


def test_the_findings_come_with_the_extra_and_only_with_it() -> None:
    assert {"onnx runtime", "onnx model"} <= {check.name for check in CHECKS}
    assert {"onnx runtime", "onnx model"} <= set(names_of(EXPECTED))
    assert not {"onnx runtime", "onnx model"} & set(names_of(replace(EXPECTED, extras=())))


def test_what_is_as_declared_passes() -> None:
    assert onnx_runtime(EXPECTED, RUNTIME)[0] is Status.PASSED
    # the order says who comes first, not who is there; a native environment has no variables of ours
    mac = {**RUNTIME, "providers": ["CoreMLExecutionProvider", *CPU], "telemetry": True}
    assert onnx_runtime(MAC, mac)[0] is Status.PASSED
    assert onnx_model(EXPECTED, MODEL)[0] is Status.PASSED


@pytest.mark.parametrize(
    ("expected", "answer", "text"),
    [
        (EXPECTED, {"version": "1.31.0"}, "expected ONNX Runtime 1.32.0, image reports 1.31.0"),
        (
            EXPECTED,
            {"providers": ["CUDAExecutionProvider", *CPU]},
            "image reports AzureExecutionProvider, CPUExecution",
        ),
        (
            EXPECTED,
            {"providers": CPU[:1]},
            "expected the providers AzureExecutionProvider, CPUExecutionProvider, image",
        ),
        (MAC, {}, "CoreMLExecutionProvider, image reports AzureExecutionProvider, CPUExecutionProvider"),
        (EXPECTED, {"telemetry": True}, "expected ORT_DISABLE_TELEMETRY=1"),
    ],
)
def test_a_runtime_that_is_not_as_declared(expected: Expected, answer: dict[str, Any], text: str) -> None:
    status, detail = onnx_runtime(expected, {**RUNTIME, **answer})
    assert (status, text in detail) == (Status.FAILED, True), detail


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"onnx": "1.0"}, "expected onnx 1.23.2, image reports 1.0"),
        ({"used": ["AzureExecutionProvider"]}, "expected the model on CPUExecutionProvider"),
        ({"error": 0.1}, "off by 0.1"),
        ({"error": float("nan")}, "off by nan"),
    ],
)
def test_a_model_that_does_not_run_as_it_should(answer: dict[str, Any], text: str) -> None:
    status, detail = onnx_model(EXPECTED, {**MODEL, **answer})
    assert (status, text in detail) == (Status.FAILED, True), detail


def test_python_packages_of_debian_count_only_where_the_image_has_none_of_its_own() -> None:
    ours = [["onnx", "1.23.2", "/usr/local/lib/python3.13/dist-packages"], ["onnxruntime", "1.32.0", "/usr/local/lib"]]
    theirs = ["pyyaml", "6.0.2", "/usr/lib/python3/dist-packages"]
    assert distributions(replace(EXPECTED, apt=("python3-yaml",)), [*ours, theirs])[0] is Status.PASSED
    assert distributions(EXPECTED, [*ours, theirs])[0] is Status.FAILED
    elsewhere = ["pyyaml", "6.0.2", "/usr/local/lib/python3.13/dist-packages"]
    assert distributions(replace(EXPECTED, apt=("python3-yaml",)), [*ours, elsewhere])[0] is Status.FAILED
