"""What images answer: tests/integration/testing/test_sandbox_probes.py; here: reading and judging."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import buildctl
from buildctl.runtimes.api import Outcome
from buildctl.testing import probes
from buildctl.testing.probes import checks, judging, judging_packages, judging_python, native_checks
from buildctl.testing.probes.asking import PARTS, Answers, UnansweredError, deadline_for, read_answers
from buildctl.testing.probes.checks import CHECKS, RUNS
from buildctl.testing.probes.commands import COMMANDS
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.findings import finding_of, findings_of
from buildctl.testing.report import Status

INSIDE = Path(buildctl.__file__).parent / "testing" / "probes" / "inside"
CUDA = Expected(
    torch="2.6.0",
    torchvision="0.21.0",
    python="3.13",
    arch="amd64",
    accelerator="cuda",
    versions={"cuda": "12.4"},
    built=("cuda",),
    never=("mps",),
    distributions={"torch": "2.6.0", "numpy": "2.1"},
)
# as it is with NVIDIA's cuSPARSELt: the index calls the file aarch64, the WHEEL in it says sbsa
GRACE = replace(CUDA, arch="arm64", files={"cusparselt": "cusparselt-0.8.1-py3-none-manylinux2014_aarch64.whl"})
SBSA, SBSA_TAG = "cusparselt 0.8.1 is not supported on this platform", "py3-none-manylinux2014_sbsa"
CPU = replace(CUDA, accelerator="cpu", versions={}, built=(), never=("cuda", "mps"))

ROCM = replace(CPU, accelerator="rocm", versions={"rocm": "6.2"}, built=("rocm",), never=("mps", "xpu"))
XPU = replace(CPU, accelerator="xpu", versions={"xpu": "2025.0"}, built=("xpu",), never=("cuda", "rocm", "mps"))
HERE = {"available": True, "names": ["x"]}


def outcome(stdout: str = "", *, code: int | None = 0, stderr: str = "", seconds: float = 1.0) -> Outcome:
    return Outcome(returncode=code, stdout=stdout, stderr=stderr, timed_out=code is None, seconds=seconds)


ON_MPS = [check for check in native_checks.CHECKS if check.run == "mps"]


def unfit(text: str, **tags: list[str]) -> dict[str, object]:
    return {"check": {"code": 1, "text": text, "tags": tags}}


def kept(**other: object) -> dict[str, object]:
    """What an image answers whose pip keeps torch; `other` replaces parts of it."""
    good = {
        "variables": {"PIP_CONSTRAINT": "/c", "UV_CONSTRAINT": "/c"},
        "text": '# why\ntorch!=0+x,===2.6.0\ntorchvision===0.21.0\ntriton===3 ; platform_machine == "aarch64"\n',
        "pip": {"kept": 1, "changed": 0},
        "said": "(constraint) torch!=0+empty.PIP_CONSTRAINT.to.change.it",
    }
    return good | other


def vision(**other: Any) -> dict[str, Any]:
    return {"version": "0.21.0+cu124", "pillow": "13.0.0", "tried": 15, "wrong": []} | other


def answer(value: object, error: str | None = None) -> dict[str, object]:
    return {"value": value, "error": error, "seconds": 0.5}


def line(doing: str | None, **answers: object) -> str:
    return json.dumps({"doing": doing, "answers": answers}) + "\n"


def test_the_last_whole_line_counts_whatever_else_is_printed() -> None:
    stdout = (
        "chatter\n" + line("b", a=answer(1)) + line(None, a=answer(1), b=answer(2)) + '{"doing": "c", "answers": {"a'
    )
    answers = read_answers(outcome(stdout))
    assert (answers.values, answers.death) == ({"a": 1, "b": 2}, "")


def test_a_crash_keeps_what_was_answered_and_says_where_it_happened() -> None:
    answers = read_answers(outcome(line("b", a=answer(1)), code=-11, stderr="one\ntwo\n"))
    assert answers.value("a") == 1
    with pytest.raises(UnansweredError, match="killed by SIGSEGV\n  one\n  two\nwhile asking for: b"):
        answers.value("b")


@pytest.mark.parametrize(
    ("ended", "says"),
    [
        (outcome(code=None, seconds=120), "still running after 120 s, killed"),
        (outcome(code=1, stderr="Traceback"), "exit code 1\n  Traceback"),
        (outcome("hello"), "printed no answer, but 'hello'"),
        (outcome('{"doing": null, "answers": [1]}'), "printed no answer"),
        (outcome('{"doing"' + ': {"a"' * 50_000), "printed no answer"),
        (outcome(code=-99), "killed by signal 99"),
    ],
)
def test_every_other_end_is_told(ended: Outcome, says: str) -> None:
    with pytest.raises(UnansweredError) as caught:
        read_answers(ended).value("torch")
    assert str(caught.value).startswith(says)


def test_an_answer_without_its_parts_is_no_answer() -> None:
    with pytest.raises(UnansweredError, match="unreadable"):
        read_answers(outcome(line(None, a={"value": 1}))).value("a")


GOOD: Mapping[str, Any] = {
    "python": {
        "system": "Linux",
        "machine": "x86_64",
        "bits": 64,
        "version": "3.13.5",
        "executable": "/p",
        "uid": 12345,
    },
    "torch": {"version": "2.6.0+cu124", "cuda": "12.4", "hip": None},
    "devices": {
        "cpu": {"available": True, "names": ["x86_64"]},
        "cuda": {"available": False, "names": []},
        "mps": {"available": False, "names": []},
    },
    "nvidia": {
        "libraries": [],
        "library_count": 38,
        "variables": ["NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA", "NVIDIA_VISIBLE_DEVICES"],
    },
    "locale": {"environment": "C.UTF-8", "codeset": "UTF-8", "files": "utf-8", "stdout": "utf-8"},
    "pip": {
        "check": {"code": 0, "text": "No broken requirements found."},
        "install": {"code": 0, "text": ""},
        "used": {"code": 0, "text": "42 /home/x/site-packages/p.py"},
        "uninstall": {"code": 0, "text": ""},
    },
    "scripts": {"declared": ["torchrun"], "missing": [], "broken": [], "pythons": {"python": "/p"}},
}


def changed(name: str, **change: object) -> dict[str, Any]:
    return {**GOOD[name], **change}


def on_gpu(**change: object) -> dict[str, Any]:
    """What a machine with a GPU answers where all is well, but for what is changed."""
    device = {"capability": [9, 0], "bf16": 0.004, "cudnn": True, "held": 64 << 20, "kept": 0}
    return {
        "matmul": {"cpu": 0.0, "cuda:0": 1e-6},
        "convolution": {"cuda:0": 1e-6},
        "autograd": {"cuda:0": [6.0, 0.0]},
        "devices": {"cuda": {"available": True, "names": ["H200"]}},
        "gpu_architectures": ["sm_80", "sm_90"],
        "gpus": {"devices": {"cuda:0": device | change}, "nccl": 3.0},
    }


CASES: list[tuple[Callable[[Expected, Any], judging.Verdict], Expected, Any, str]] = [
    (judging.platform, CUDA, changed("python", machine="aarch64"),
     "expected platform Linux x86_64, image reports Linux aarch64"),
    (judging.python, CUDA, changed("python", version="3.1.3"), "expected Python 3.13, image reports 3.1.3"),
    (judging.torch, CUDA, changed("torch", version="2.6.1"), "expected torch 2.6.0, image reports 2.6.1"),
    (judging.torch, CUDA, changed("torch", version="unknown"), "expected torch 2.6.0, image reports unknown"),
    (judging.torch, replace(CUDA, torch="2.6.0+cpu"), GOOD["torch"],
     "expected torch 2.6.0+cpu, image reports 2.6.0+cu124"),
    (judging.torchvision, CUDA, None, "expected torchvision 0.21.0, image reports none"),
    (judging.torchvision, CUDA, vision(version="0.22.0"), "expected torchvision 0.21.0, image reports 0.22.0"),
    (judging.torchvision, CUDA, vision(wrong=["resize of L: x"]),
     "pillow 13.0.0 and torchvision: 1 of 15 failed\n  resize of L: x"),
    (judging.torchaudio, CUDA, "2.6.0", "expected torchaudio to be absent, image reports 2.6.0"),
    (judging.cuda_version, CUDA, changed("torch", cuda="12.6"), "expected CUDA 12.4, image reports 12.6"),
    (judging.cuda_version, CPU, GOOD["torch"], "expected CPU only, image reports a CUDA build (12.4)"),
    (judging.cuda_version, CPU, changed("torch", cuda=None, hip="6.1"), "a ROCm build (6.1)"),
    (judging.cuda_version, CUDA, changed("torch", cuda=None), "expected CUDA 12.4, image reports none (a CPU build)"),
    (judging.cuda_version, ROCM, changed("torch", cuda=None, hip="6.3.1-a"), "ROCm 6.2, image reports 6.3.1-a"),
    (judging.cuda_version, ROCM, GOOD["torch"], "expected ROCm 6.2, image reports a CUDA build (12.4)"),
    (judging.cuda_version, XPU, changed("torch", cuda=None), "expected XPU 2025.0, image reports none (a CPU build)"),
    (judging.gpu, XPU, on_gpu(), "expected the host's GPU to appear, image reports no device xpu"),
    (judging.devices, CPU, {"cpu": HERE, "xpu": HERE}, "expected no device xpu, image reports it as available"),
    (judging.backends, CUDA, {"cuda": False, "mkldnn": True}, "expected cuda to be built in, image reports: mkldnn"),
    (judging.backends, CPU, {"cuda": True}, "expected no cuda in this build, image reports: cuda"),
    (judging.gpu_architectures, CPU, ["sm_90"], "expected none, image reports sm_90"),
    (judging.gpu_architectures, CUDA, [], "without any GPU architecture"),
    (judging.gpu_architectures, replace(CUDA, gpu_architectures=("sm_80", "sm_90")), ["sm_80"],
     "expected GPU architectures sm_80 sm_90, image reports sm_80"),
    (judging.devices, CPU, {**GOOD["devices"], "cuda": {"available": True, "names": ["H200"]}},
     "expected no device cuda, image reports it"),
    (judging.without_gpu, CUDA, {"picked": "cpu", "sum": 8.0, "refusal": None}, "expected an error for device='cuda'"),
    (judging.without_gpu, CUDA, {"picked": "cuda", "sum": 8.0, "refusal": "x"}, "image reports on cuda 8.0"),
    (judging.matmul_cpu, CUDA, {"cpu": 0.5}, "image computes 0.5"),
    (judging.matmul_cpu, CUDA, {"cpu": float("nan")}, "image computes nan"),
    (judging.autograd_cpu, CUDA, {"cpu": [1.0, 0.9]}, "image trains 1 -> 0.9"),
    (judging.gpu, CUDA, {"matmul": {"cpu": 0.0}, "convolution": {}, "autograd": {}, "devices": {}}, "no device cuda"),
    (judging.gpu, CUDA, on_gpu() | {"convolution": {"cuda:0": 1.0}}, "on cuda:0: expected an error of at most"),
    (judging.gpu, CUDA, on_gpu(capability=[12, 0]), "expected kernels for sm_120, image has sm_80 sm_90"),
    (judging.gpu, CUDA, on_gpu(bf16=0.3), "expected bfloat16 within 0.01, image computes 0.3"),
    (judging.gpu, CUDA, on_gpu(cudnn=False), "expected cuDNN to accept its tensors"),
    (judging.gpu, CUDA, on_gpu(kept=512), "512 of 67108864 allocated bytes were not released"),
    (judging.gpu, CUDA, on_gpu() | {"gpus": {**on_gpu()["gpus"], "nccl": 1.0}}, "NCCL's sum over one process"),
    (judging.numpy_bridge, CUDA, {"numpy": "2.5.5", "types": 14, "tried": 138, "wrong": ["of numpy.bool: x"]},
     "numpy 2.5.5 and torch: 1 of 138 exchanges failed\n  of numpy.bool: x"),
    (judging.numpy_bridge, CUDA, {"numpy": "2.5.5", "types": 0, "tried": 0, "wrong": []}, "image tried none"),
    (judging.dataloader, CUDA, {"squares": [0, 1, 4, 9, 16, 25, 36, 49], "workers": 1}, "image reports 1"),
    (judging.bytecode, CUDA, {"good": 9, "bad": ["torch: no bytecode"], "bad_count": 1}, "torch: no bytecode"),
    (judging_packages.distributions, CUDA, [["numpy", "2.1", "/a"], ["torch", "2.6.0", "/a"], ["torch", "2.5", "/b"]],
     "torch: installed 2 times (2.6.0, 2.5)"),
    (judging_packages.distributions, CUDA, [["torch", "2.6.0", "/a"]], "numpy: expected 2.1, image reports none"),
    (judging_packages.distributions, CUDA, [["numpy", "2.1", "/a"], ["pip", "1", "/a"], ["torch", "2.6.0", "/a"]],
     "pip: expected to be absent, image reports 1"),
    (judging_packages.pip_check, CUDA, unfit("torch 2.6.0 requires x"), "torch 2.6.0 requires x"),
    (judging_packages.pip_check, CUDA, unfit(SBSA, cusparselt=[SBSA_TAG]), SBSA),
    (judging_packages.pip_check, GRACE, unfit(SBSA), SBSA),
    (judging_packages.pip_check, GRACE, unfit(SBSA, cusparselt=["py3-none-win_amd64"]), SBSA),
    (judging_packages.pip_check, GRACE, unfit(f"{SBSA}\nx 1 requires y", cusparselt=[SBSA_TAG]), "x 1 requires y"),
    (judging_packages.pip_check, replace(GRACE, files={"cusparselt": "c-1-py3-none-manylinux2014_ppc64le.whl"}),
     unfit(SBSA, cusparselt=[SBSA_TAG]), SBSA),
    (judging_packages.pip_check, CUDA, {"rest": {"code": 1, "text": "No module named pip"}}, "No module named pip"),
    (judging_packages.pip_install, CUDA, changed("pip", used={"code": 1, "text": "boom"}),
     "pip used: exit code 1\nboom"),
    (judging_packages.helpers, CUDA, {"versions": {}, "tried": 3, "wrong": ["sympy 2, x: TypeError"]},
     "1 of 3 packages do not work with this torch\n  sympy 2, x: TypeError"),
    (judging_packages.helpers, CUDA, {"versions": {}, "tried": 0, "wrong": []}, "image has none"),
    (judging_packages.console_scripts, CUDA, changed("scripts", missing=["torchrun"]), "not on PATH: torchrun"),
    (judging_packages.console_scripts, CUDA, changed("scripts", broken=["/b/pip: #!/nope"]), "/b/pip: #!/nope"),
    (judging_packages.console_scripts, CUDA, changed("scripts", pythons={"python": None}), "expected python on PATH"),
    (judging.no_cuda, CPU, {"nvidia": changed("nvidia", library_count=0), "distributions": []}, "image sets NVIDIA_"),
    (judging.nvidia_environment, CUDA, changed("nvidia", variables=[]), "image sets none"),
    (judging.nvidia_environment, CUDA, changed("nvidia", library_count=0), "expected CUDA libraries"),
    (judging.locale, CUDA, changed("locale", environment=""), "image reports no LANG (UTF8, UTF8, UTF8)"),
    (judging.locale, CUDA, changed("locale", codeset="ANSI_X3.4-1968"), "ANSI_X3.41968"),
    (judging.certificates, CUDA, {"loaded": 0, "hashed": 0}, "expected a CA bundle, image loads 0"),
    (judging.writable, CUDA, {"uid": 7, "problems": ["/h: Permission denied"], "modes": {}}, "expected uid 7 to write"),
    (judging.any_uid, CUDA, {"python": changed("python", uid=1000), "user_name": "x"}, "expected uid 12345"),
    (judging_python.kept, CUDA, kept(variables={"PIP_CONSTRAINT": "", "UV_CONSTRAINT": "/c"}),
     "expected PIP_CONSTRAINT to name a constraints file"),
    (judging_python.kept, CUDA, kept(text=""), "expected one constraints file, image has none at /c"),
    (judging_python.kept, CUDA, kept(text="torch===2.6.0\n"), "expected torchvision to be constrained to 0.21.0"),
    (judging_python.kept, CUDA, kept(text="torch===2.6.1\ntorchvision===0.21.0\n"), "image reports 2.6.1"),
    (judging_python.kept, CUDA, kept(pip={"kept": 0, "changed": 0}), "pip would replace torch"),
    (judging_python.kept, CUDA, kept(pip={"kept": 1, "changed": 1}), "pip does not replace torch when"),
    (judging_python.kept, CUDA, kept(uv={"kept": 0, "changed": 0}), "uv would replace torch"),
    (judging_python.kept, CUDA, kept(said="no solution"), "expected pip's refusal to name PIP_CONSTRAINT"),
    (judging_python.kept, CUDA, kept(pip={}, said="No module named pip"), "pip cannot run\nNo module named pip"),
    (judging_python.login_shell, CUDA, {"home": "/h", "path": ["/usr/bin"]}, "/h/.local/bin, image reports /usr/bin"),
    (judging_python.standard_library, CUDA, {"tried": ["ssl"], "missing": {"ssl": "No module named _ssl"}}, "_ssl"),
    (judging_python.standard_library, CUDA, {"tried": [], "missing": {}}, "image tried none"),
    (judging.compiled, CUDA, {"compiler": None, "compiled": {}}, "expected g++"),
    (judging.compiled, CUDA, {"compiler": "/g++", "compiled": {"error": 0.0, "graphs": 0}}, "image compiled 0"),
]  # fmt: skip


@pytest.mark.parametrize(("judge", "expected", "value", "says"), CASES, ids=[f"{c[0].__name__}-{c[3]}" for c in CASES])
def test_what_differs_fails_and_names_both(
    judge: Callable[[Expected, Any], judging.Verdict], expected: Expected, value: Any, says: str
) -> None:
    status, detail = judge(expected, value)
    assert status is Status.FAILED
    assert says in detail


@pytest.mark.parametrize(
    ("judge", "value"),
    [
        (judging.platform, GOOD["python"]),
        (judging.python, GOOD["python"]),
        (judging.torch, GOOD["torch"]),
        (judging.cuda_version, GOOD["torch"]),
        (judging.devices, GOOD["devices"]),
        (judging.torchaudio, None),
        (judging.torchvision, vision()),
        (judging.without_gpu, {"picked": "cpu", "sum": 8.0, "refusal": "no driver"}),
        (judging.gpu, on_gpu()),
        (judging.gpu, on_gpu(capability=[7, 5], bf16=None) | {"gpu_architectures": ["sm_75"]}),
        (judging_packages.distributions, [["numpy", "2.1.0", "/a"], ["torch", "2.6.0", "/a"]]),
        (judging.nvidia_environment, GOOD["nvidia"]),
        (judging.locale, GOOD["locale"]),
        (judging_packages.pip_check, GOOD["pip"]),
        (judging_packages.pip_install, GOOD["pip"]),
        (judging_packages.console_scripts, GOOD["scripts"]),
        (judging_packages.helpers, {"versions": {"sympy": "1.14.0"}, "tried": 1, "wrong": []}),
        (judging_python.kept, kept()),
        (judging_python.kept, kept(uv={"kept": 1, "changed": 0})),
        (judging_python.login_shell, {"home": "/h", "path": ["/h/.local/bin", "/usr/bin"]}),
        (judging_python.standard_library, {"tried": ["ssl"], "missing": {}}),
        (judging.numpy_bridge, {"numpy": "2.2.6", "types": 14, "tried": 138, "wrong": []}),
    ],
)
def test_what_agrees_passes(judge: Callable[[Expected, Any], judging.Verdict], value: Any) -> None:
    assert judge(CUDA, value)[0] is Status.PASSED


def test_a_complaint_of_a_platforms_other_name_is_known_and_named() -> None:
    status, detail = judging_packages.pip_check(GRACE, unfit(SBSA, cusparselt=[SBSA_TAG]))
    assert (status, "only complains of cusparselt, whose WHEEL has sbsa" in detail) == (Status.PASSED, True)


def test_no_gpu_is_said_in_plain_words() -> None:
    detail = judging.without_gpu(CUDA, {"picked": "cpu", "sum": 8.0, "refusal": "no driver"})[1]
    assert detail == "built for CUDA 12.4, no device, runs on the cpu"


@pytest.mark.parametrize("nonsense", [None, 3, "text", [], {}, {"version": None}, [[]], {"cpu": "x"}])
@pytest.mark.parametrize("check", [*CHECKS, *ON_MPS], ids=lambda check: check.name)
def test_nonsense_never_passes(check: Any, nonsense: object) -> None:
    answers = Answers(values=dict.fromkeys(check.questions, nonsense))
    assert finding_of(check, answers, replace(CUDA, torchaudio="1")).status is Status.FAILED


def test_without_root_a_write_proves_only_what_the_mode_says() -> None:
    check = next(c for c in CHECKS if c.name == "home and workdir")
    value = {"uid": 1000, "problems": [], "modes": {"/home/torch": "0o755", "/workspace": "0o1777"}}
    found = finding_of(check, Answers(values={"writable": value}), CUDA, ownership=False)
    assert found.status is Status.NOT_RUN
    assert found.detail.endswith("cannot tell who owns /home/torch")
    assert finding_of(check, Answers(values={"writable": value}), CUDA).status is Status.PASSED
    value["modes"] = {"/workspace": "0o1777"}
    assert finding_of(check, Answers(values={"writable": value}), CUDA, ownership=False).status is Status.PASSED


class Recorded:
    """A session that answers every command in the same way."""

    def __init__(self, outcome: Outcome, *, emulated: str | None = None, gpus: bool = False) -> None:
        self.outcome, self.emulated, self.gpus = outcome, emulated, gpus
        self.gpus_reason, self.ownership = "no NVIDIA device on this host", True
        self.calls: list[tuple[list[str], dict[str, Any]]] = []

    def run(self, argv: Any, **how: Any) -> Outcome:
        self.calls.append((list(argv), how))
        return self.outcome


@pytest.mark.parametrize("expected", [CUDA, CPU, ROCM, XPU, replace(CUDA, flavour="devel")])
def test_an_image_where_nothing_works_passes_nothing(expected: Expected) -> None:
    session = Recorded(outcome(code=127, stderr="python: not found"))
    findings = list(findings_of(session, expected))
    assert [f.name for f in findings] == probes.names_of(expected)
    statuses = {f.name: f.status for f in findings}
    assert Status.PASSED not in statuses.values()
    not_run = {name for name, status in statuses.items() if status is Status.NOT_RUN}
    assert not_run == ({"works on the gpu"} if expected.kind.gpu else set()) | (
        set() if expected.flavour == "devel" else {"torch.compile"}
    )


def test_a_crash_at_the_end_is_not_lost() -> None:
    check = [c for c in CHECKS if c.run == "stranger's files"]
    good = {"writable": answer({"uid": 12345, "problems": [], "modes": {"/w": "0o1777"}})}
    found = list(findings_of(Recorded(outcome(line(None, **good), code=-6)), CPU))
    assert next(f for f in found if f.name == check[0].name).status is Status.PASSED
    death = next(f for f in found if f.name == "stranger's files process")
    assert (death.status, death.detail) == (Status.FAILED, "killed by SIGABRT")


def test_a_gpu_swaps_the_two_findings_about_it() -> None:
    found = {f.name: f for f in findings_of(Recorded(outcome(code=1), gpus=True), CUDA)}
    assert found["without a gpu"].status is Status.NOT_RUN
    assert found["works on the gpu"].status is Status.FAILED


def test_emulation_stretches_every_deadline() -> None:
    native, emulated = Recorded(outcome(code=1)), Recorded(outcome(code=1), emulated="qemu-aarch64")
    for session in (native, emulated):
        list(findings_of(session, replace(CUDA, flavour="devel", extras=("onnx",))))
    limits = [[how["timeout"] for _, how in session.calls] for session in (native, emulated)]
    assert len(limits[0]) == len(RUNS) + len(COMMANDS)
    assert [deadline_for(emulated, limit) for limit in limits[0]] == limits[1]
    assert min(limits[1]) >= 10 * min(limits[0])


@pytest.mark.parametrize("table", [checks, native_checks])
def test_what_a_finding_is_judged_by_is_asked_by_its_probe(table: ModuleType) -> None:
    for check in table.CHECKS:
        probe = table.RUNS[check.run].probe
        source = "".join((INSIDE / f"{part}.py").read_text() for part in (*PARTS.get(probe, ()), probe))
        # by itself, or as a row of all that the probe can be asked
        assert [q for q in check.questions if f'ask("{q}", ' not in source and f'"{q}": ' not in source] == [], (
            check.name
        )


@pytest.mark.parametrize("name", sorted({run.probe for run in RUNS.values()}))
def test_a_probe_is_one_program_of_standard_library_and_torch(name: str) -> None:
    source = "\n".join((INSIDE / f"{part}.py").read_text() for part in ("ask", *PARTS.get(name, ()), name))
    assert len(source.encode()) < 100_000  # it travels as one argument, which Linux limits to 128 KiB
    tree = ast.parse(source, feature_version=(3, 9))
    modules = {
        module.split(".")[0]
        for node in ast.walk(tree)
        for module in (
            [a.name for a in node.names] if isinstance(node, ast.Import)
            else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    import sys

    assert modules - set(sys.stdlib_module_names) <= {
        *("torch", "functorch", "torchvision", "PIL", "numpy", "onnx", "onnxruntime", "setuptools", "__future__")
    }
