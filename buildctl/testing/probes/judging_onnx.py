"""Comparing what ONNX Runtime answered with what the extra `onnx` of the matrix declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import Verdict, differs, failed, passed, same_version

# Of the wheel named onnxruntime, by system, whatever the accelerator: CUDA's provider is in onnxruntime-gpu. Azure's
# runs models elsewhere, and only when a session asks for it.
PROVIDERS: Mapping[str, frozenset[str]] = {
    "Linux": frozenset({"AzureExecutionProvider", "CPUExecutionProvider"}),
    "Darwin": frozenset({"AzureExecutionProvider", "CPUExecutionProvider", "CoreMLExecutionProvider"}),
}


def onnx_runtime(expected: Expected, value: Any) -> Verdict:
    wanted, version = PROVIDERS[expected.system], expected.distributions["onnxruntime"]
    if not same_version(version, value["version"]):
        return differs("ONNX Runtime", version, value["version"])
    if set(value["providers"]) != wanted:
        return differs("the providers", ", ".join(sorted(wanted)), ", ".join(sorted(value["providers"])) or "none")
    if value["telemetry"] and not expected.native:
        return failed("expected ORT_DISABLE_TELEMETRY=1: without it ONNX Runtime reports to its makers")
    return passed(f"ONNX Runtime {value['version']}: {', '.join(sorted(value['providers']))}")


def onnx_model(expected: Expected, value: Any) -> Verdict:
    version = expected.distributions["onnx"]
    if not same_version(version, value["onnx"]):
        return differs("onnx", version, value["onnx"])
    if value["used"] != ["CPUExecutionProvider"]:
        return differs("the model on", "CPUExecutionProvider", ", ".join(value["used"]) or "none")
    if not value["error"] <= 1e-5:  # also when it is not a number
        return failed(f"expected numpy's result, ONNX Runtime is off by {value['error']:.3g}")
    return passed(f"a model of onnx {value['onnx']} gives numpy's result")
