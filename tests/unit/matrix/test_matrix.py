from __future__ import annotations

import json
import re
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from buildctl.ground.errors import MatrixError, ProblemsError, UsageError
from buildctl.matrix.cells import DebianBase, Flavour, ImageBase, Os
from buildctl.matrix.matrix import Matrix, parse_arch
from buildctl.matrix.read import load_matrix, parse_matrix, schema
from buildctl.oci.compression import COMPRESSIONS, compression_of

ROOT = Path(__file__).parents[3]

SMALL = """
python: "3.13"
versions:
  "2.6": 2.6.0
  "2.15": 2.15.0
packages: [torchvision, {name: torchaudio, version: "{torch}", torch: "<2.12"}, "numpy>=2", pip]
flavours: [runtime, devel]
bases:
  debian13: {debian: trixie, packages: [bash, python3.13], devel: [g++]}
accelerators:
  cuda: {arch: [amd64, arm64], base: debian13, devices: {built: [cuda], never: [mps]}, env: {A_B: "x,y"}}
  mps: {native: macos, arch: [arm64], devices: {built: [mps]}}
exclude:
  - {accelerator: cuda, arch: arm64, versions: "<2.11", reason: only CPU builds, instead: "cuda-{version} on amd64"}
"""


def parse(text: str) -> Matrix:
    return parse_matrix(text, Path("matrix.yaml"))


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ProblemsError) as caught:
        parse(text)
    return caught.value.problems


def changed(old: str, new: str) -> str:
    assert SMALL.count(old) == 1, old
    return SMALL.replace(old, new)


@pytest.fixture(scope="module")
def default() -> Matrix:
    return load_matrix(ROOT / "matrix.yaml")


# The default matrix.


def test_the_default_matrix_has_exactly_the_cells_that_pypi_alone_can_lock(default: Matrix) -> None:
    images = [
        *("cuda-2.6 amd64", "cuda-2.10 amd64", "cuda-2.15 amd64", "cuda-2.15 arm64"),
        *("cpu-2.6 arm64", "cpu-2.10 arm64"),
    ]
    expected = {f"{name} {flavour} linux/{arch}" for name, arch in map(str.split, images) for flavour in Flavour}
    expected |= {f"mps-{key} runtime darwin/arm64" for key in ("2.6", "2.10", "2.15")}
    found = [f"{cell.name} {cell.flavour} {cell.platform}" for cell in default.cells]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_every_combination_of_the_default_matrix_that_does_not_exist_says_why_and_what_instead(default: Matrix) -> None:
    impossible = [c for c in default.combinations if not c.exists]
    assert len(default.combinations) == 3 * 3 * 2 * 2
    assert len(impossible) == 36 - 9
    for combination in impossible:
        assert combination.reason, combination
        assert combination.instead, combination
        assert "is only offered" not in combination.reason, combination
        assert "{" not in combination.instead


@pytest.mark.parametrize(
    ("accelerator", "key", "os", "arch", "reason", "instead"),
    [
        ("mps", "2.15", Os.LINUX, "arm64", "Metal is not passed through", "native environment mps-2.15"),
        ("cuda", "2.6", Os.MACOS, "arm64", "CUDA does not exist on macOS", "mps-2.6"),
        ("cpu", "2.15", Os.LINUX, "arm64", "from 2.11 on .* PyPI are CUDA builds", "cuda-2.15 on arm64"),
        ("cpu", "2.6", Os.LINUX, "amd64", "linux/x86_64 wheels .* are CUDA builds", "cuda-2.6 on amd64"),
        ("cuda", "2.10", Os.LINUX, "arm64", r"before 2\.11 .* are CPU builds", "cpu-2.10 on arm64"),
    ],
)
def test_known_impossible_combinations(
    default: Matrix, accelerator: str, key: str, os: Os, arch: str, reason: str, instead: str
) -> None:
    answer = default.explain(accelerator, key, os=os, arch=arch)
    assert not answer.exists
    assert re.search(reason, answer.reason)
    assert instead in answer.instead


def test_torchaudio_goes_with_torch_while_it_exists(default: Matrix) -> None:
    by_key = {cell.key: cell.requirements for cell in default.cells}
    assert by_key["2.10"] == ("torch==2.10.0", "torchvision", "torchaudio==2.10.0", "numpy", "pip")
    assert by_key["2.15"] == ("torch==2.15.0", "torchvision", "numpy", "pip")


def test_numpy_is_bounded_for_versions_of_torch_that_came_before_it(default: Matrix) -> None:
    by_key = {cell.key: cell.requirements for cell in default.cells}
    assert by_key["2.6"][3:] == ("numpy", "numpy<2.3", "pip")
    text = (ROOT / "matrix.yaml").read_text()
    for release, bounded in {"2.5.1": True, "2.7.1": True, "2.8.0": True, "2.9.1": False}.items():
        more = text.replace('  "2.10":', f'  "{release[:3]}": {release}\n  "2.10":')
        of_release = next(c for c in parse(more).cells if str(c.torch) == release)
        assert ("numpy<2.3" in of_release.requirements) == bounded, release


def test_an_entry_for_some_versions_of_torch_narrows_another() -> None:
    text = changed('"numpy>=2"', '"numpy>=2", {name: numpy, version: "!=2.4.1, <2.5", torch: "<2.12"}')
    by_key = {cell.key: cell.requirements for cell in parse(text).cells}
    assert [r for r in by_key["2.6"] if r.startswith("numpy")] == ["numpy>=2", "numpy!=2.4.1,<2.5"]
    assert [r for r in by_key["2.15"] if r.startswith("numpy")] == ["numpy>=2"]


def test_both_flavours_ask_for_the_same_wheels(default: Matrix) -> None:
    by_wheels = {(c.name, c.arch): set[tuple[str, ...]]() for c in default.cells}
    for cell in default.cells:
        by_wheels[cell.name, cell.arch].add(cell.requirements)
    assert all(len(found) == 1 for found in by_wheels.values())


def test_adding_a_version_is_one_line() -> None:
    text = (ROOT / "matrix.yaml").read_text()
    more = text.replace('  "2.15": 2.15.0\n', '  "2.15": 2.15.0\n  "2.13": 2.13.0\n')
    added = {c.id for c in parse(more).cells} - {c.id for c in parse(text).cells}
    assert added == {
        *("cuda-2.13-amd64", "cuda-2.13-devel-amd64", "cuda-2.13-arm64", "cuda-2.13-devel-arm64"),
        "mps-2.13-arm64",
    }


# Choosing cells.


def ids(matrix: Matrix, *names: str, arch: str | None = None) -> list[str]:
    return [cell.id for cell in matrix.select(names, arch)]


def test_the_id_of_a_cell_is_a_name_of_it_alone(default: Matrix) -> None:
    assert ids(default, "cuda-2.15-arm64") == ["cuda-2.15-arm64"]
    assert ids(default, "cpu-2.6-devel-arm64", "mps-2.6-arm64") == ["cpu-2.6-devel-arm64", "mps-2.6-arm64"]
    with pytest.raises(MatrixError, match="unknown image name"):
        default.select(["cuda-2.15-arm64"], "amd64")


def test_a_name_means_one_flavour_on_every_architecture(default: Matrix) -> None:
    assert ids(default, "cuda-2.15") == ["cuda-2.15-amd64", "cuda-2.15-arm64"]
    assert ids(default, "cuda-2.15-devel", arch="arm64") == ["cuda-2.15-devel-arm64"]


def test_no_name_means_everything_in_the_order_of_the_file(default: Matrix) -> None:
    assert default.select() == default.cells
    assert ids(default, "mps-2.6", "cpu-2.6") == ["cpu-2.6-arm64", "mps-2.6-arm64"]


def test_globs(default: Matrix) -> None:
    assert ids(default, "cpu-*", "cpu-2.6") == [
        *("cpu-2.6-arm64", "cpu-2.6-devel-arm64", "cpu-2.10-arm64", "cpu-2.10-devel-arm64"),
    ]
    with pytest.raises(MatrixError, match="no image matches 'rocm-"):
        default.select(["rocm-*"])


def test_images_leave_native_environments_out_and_say_why_for_one_that_is_named(default: Matrix) -> None:
    assert not any(cell.native for cell in default.images_of())
    with pytest.raises(MatrixError, match="Metal is not passed through") as caught:
        default.images_of(["mps-2.15"])
    assert caught.value.hint
    assert "native environment mps-2.15" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "arch", "message", "hint"),
    [
        ("coda-2.6", None, "unknown image name 'coda-2.6' (did you mean 'cuda-2.6'?)", "names: cuda-2.6,"),
        ("cuda-2.6-devle", None, "(did you mean 'cuda-2.6-devel'?)", "names:"),
        ("cuda-2.7", None, "torch 2.7 is not in matrix.yaml, which has 2.6, 2.10, 2.15", '"2.7":'),
        ("cuda-2.7-devel", None, "torch 2.7 is not in matrix.yaml", '"2.7":'),
        ("cuda-2.6", "arm64", "before 2.11 the linux/aarch64 wheels", "cpu-2.6 on arm64"),
        ("cpu-2.15", None, "from 2.11 on the linux/aarch64 wheels", "cuda-2.15 on arm64"),
        ("cpu-2.6-devel", "amd64", "the linux/x86_64 wheels of torch on PyPI are CUDA builds", "cuda-2.6 on amd64"),
        ("mps-2.6", "amd64", "MPS needs an Apple GPU", "mps-2.6 on macOS arm64"),
        ("mps-2.6-devel", None, "mps-2.6 has no devel flavour", "use mps-2.6"),
        ("cuda-2.6", "arm46", "unknown architecture 'arm46' (did you mean 'arm64'?)", "amd64, arm64"),
    ],
)
def test_what_cannot_be_chosen_says_why_and_what_instead(
    default: Matrix, name: str, arch: str | None, message: str, hint: str
) -> None:
    with pytest.raises(MatrixError) as caught:
        default.select([name], arch)
    assert message in caught.value.message
    assert caught.value.hint
    assert hint in caught.value.hint


def test_architectures_have_their_kernel_names_too() -> None:
    assert [parse_arch(name) for name in ("x86_64", "aarch64", "linux/arm64", "AMD64")] == [
        *("amd64", "arm64", "arm64", "amd64")
    ]


def test_what_nobody_excluded_and_nobody_offers_is_closed() -> None:
    matrix = parse(changed("arch: [amd64, arm64]", "arch: [amd64]"))
    answer = matrix.explain("cuda", "2.15", os=Os.LINUX, arch="arm64")
    assert answer.reason == "cuda is only offered in containers on amd64"
    assert answer.instead
    with pytest.raises(MatrixError, match="only offered"):
        matrix.select(["cuda-2.15"], "arm64")


# Bases.


def test_a_debian_base() -> None:
    assert parse(SMALL).bases == (
        DebianBase(name="debian13", suite="trixie", packages=("bash", "python3.13"), devel=("g++",)),
    )


IMAGE = "python:3.13-slim@sha256:" + "a" * 64


def test_an_image_base_has_no_devel_flavour_unless_one_is_named() -> None:
    old = "{debian: trixie, packages: [bash, python3.13], devel: [g++]}"
    new = f"{{image: {IMAGE}, layout: bases/slim}}"
    matrix = parse(changed(old, new))
    assert isinstance(matrix.bases[0], ImageBase)
    assert {cell.flavour for cell in matrix.cells} == {Flavour.RUNTIME}
    with pytest.raises(MatrixError, match=r"cuda-2\.6 has no devel flavour"):
        matrix.select(["cuda-2.6-devel"])
    both = parse(changed(old, new.replace("layout:", f"devel: {IMAGE}, layout:")))
    assert {cell.flavour for cell in both.cells if not cell.native} == set(Flavour)


def test_a_native_environment_has_no_base() -> None:
    cell = parse(SMALL).select(["mps-2.6"])[0]
    with pytest.raises(MatrixError, match="native environment"):
        _ = cell.base


# Errors: line, key path, all at once.


def test_an_unquoted_version_key_is_an_error_with_a_hint() -> None:
    assert problems(changed('  "2.15": 2.15.0', "  2.10: 2.10.0")) == (
        'line 5: versions["2.10"]: key 2.10, which YAML reads as the number 2.1 (quote it: "2.10")',
    )


def test_an_unquoted_version_value_is_an_error_with_a_hint() -> None:
    found = problems(changed('python: "3.13"', "python: 3.10"))
    assert found == ('line 2: python: value 3.10, which YAML reads as the number 3.1 (quote it: "3.10")',)


def test_a_key_given_twice_is_an_error_with_both_lines() -> None:
    found = problems(changed('  "2.15": 2.15.0', '  "2.6": 2.6.1'))
    assert found == ('line 5: versions["2.6"]: given twice, first on line 4 (keep one)',)


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        SMALL.replace("flavours: [runtime, devel]", "flavors: [runtime]")
        .replace("native: macos, arch: [arm64]", "native: windows, arch: [arm46]")
        .replace("reason: only CPU builds, ", "")
        .replace("base: debian13,", "base: debian13, evn: {},")
    )
    assert problems(text) == (
        "line 7: flavors: unknown key (did you mean 'flavours'?)",
        "line 11: accelerators.cuda.evn: unknown key (did you mean 'env'?)",
        "line 12: accelerators.mps.arch[0]: 'arm46' is not one of amd64, arm64 (did you mean 'arm64'?)",
        "line 12: accelerators.mps.native: 'windows' is not one of macos",
        "line 14: exclude[0]: the key 'reason' is missing",
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("base: debian13", "base: debian31", "accelerators.cuda.base: no base 'debian31' (did you mean 'debian13'?)"),
        ("- {accelerator: cuda", "- {accelerator: cdua", "accelerator: no accelerator 'cdua' (did you mean 'cuda'?)"),
        ("2.15.0", "2.14.0", 'versions["2.15"]: 2.14.0 is not a release of 2.15'),
        ("2.15.0", "2.15.0+cu126", "'2.15.0+cu126' is not a torch release such as 2.10.0"),
        ("torchvision,", "torchvision, torch,", "packages[1]: torch comes from versions"),
        ("torchvision,", "torchvision, Torch_Vision,", None),
        ("torchvision,", "torchvision, TorchVision,", "packages[1]: torchvision is listed twice"),
        ("torchvision,", "torchvision, {name: torchvision, version: '1'},", "torchvision is listed twice"),
        ("torchvision,", "torchvision, {name: torch, version: '2.6.0', torch: '<2.7'},", "torch comes from versions"),
        ('version: "{torch}"', 'version: "<2.3,,>"', "packages[1].version: '<2.3,,>' is not a version range"),
        ('"numpy>=2"', '"numpy>=="', "packages[2]: 'numpy>==' is not a requirement"),
        ('"numpy>=2"', '"numpy @ file:///x"', "packages[2]: 'numpy @ file:///x' is not a Python requirement"),
        ('"<2.11"', '"<2.11,,>"', "is not a version range"),
        ('"<2.11"', '"2.11"', "is not a version range"),
        ("built: [cuda], never: [mps]", "built: [cuda], never: [cuda]", "cuda is both under built and under never"),
        ("[bash, python3.13]", "[bash, bash]", "bases.debian13.packages: has 'bash' more than once"),
        ("[bash, python3.13]", "[]", "bases.debian13.packages: must not be empty"),
        ("native: macos, ", "native: macos, base: debian13, ", "accelerators.mps.base: unknown key"),
        ("flavours: [runtime, devel]", "flavours: runtime", "flavours: must be a list, is 'runtime'"),
        ("  cuda: {", "  cuda_12: {", "'cuda_12' is not an accelerator name"),
        ("env: {A_B: ", "env: {A-B: ", "'A-B' is not an environment variable name"),
        ('A_B: "x,y"', "A_B: yes", 'must be a string, is true (quote it: "...")'),
        ('A_B: "x,y"', "A_B:", "must be a string, is empty"),
        ('A_B: "x,y"', "A_B: 1", 'value 1 is a number (quote it: "1")'),
        ('A_B: "x,y"', "A_B: 2026-01-01", "'2026-01-01' is not a string"),
        ('A_B: "x,y"', "A_B: !!python/name:os.system x", "is not a string"),
        ("  mps: {", "  <<: {", "merge keys are not supported"),
    ],
)
def test_each_mistake_is_named(old: str, new: str, problem: str | None) -> None:
    text = changed(old, new)
    if problem is None:
        parse(text)
        return
    found = problems(text)
    assert len(found) == 1
    assert problem in found[0]
    assert found[0].startswith("line ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "[1, 2", "a: b: c", "a: &x [*x]", "just text", "- a\n- b", "\x00"])
def test_what_is_no_matrix_at_all_is_one_error(text: str) -> None:
    assert problems(text)


def test_aliases_that_multiply_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "an alias that never ends" in problems("\n".join(lines))[0]


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="does not exist"):
        load_matrix(tmp_path / "matrix.yaml")
    (tmp_path / "matrix.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MatrixError, match="cannot read"):
        load_matrix(tmp_path / "matrix.yaml")


# Nothing from the matrix can become an instruction.

INSTRUCTIONS = [
    "x\nRUN evil",
    "x\r\nRUN evil",
    "x\u2028RUN evil",
    "x\x85RUN",
    "x\\\nRUN",
    "$(evil)",
    "x && evil",
    "x`y`",
]


def every_string(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in every_string(v, (*path, k))]
    if isinstance(value, list):
        return [p for n, v in enumerate(value) for p in every_string(v, (*path, n))]
    return [path] if isinstance(value, str) else []


VALUE = yaml.safe_load(SMALL)
STRINGS = every_string(VALUE)


@pytest.mark.parametrize("path", STRINGS, ids=str)
@pytest.mark.parametrize("evil", INSTRUCTIONS)
def test_no_value_can_inject_an_instruction(path: tuple[str | int, ...], evil: str) -> None:
    value = deepcopy(VALUE)
    at = value
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = evil
    text = json.dumps(value)
    if path[-1] in {"reason", "instead"} and evil in {"$(evil)", "x && evil", "x`y`"}:
        return  # sentences for people, never rendered
    if path[-2:] == ("env", "A_B") and evil == "x && evil":
        return  # a plain value: the renderer quotes it
    assert problems(text)


@pytest.mark.parametrize("where", ["versions", "bases", "accelerators", ("accelerators", "cuda", "env")], ids=str)
@pytest.mark.parametrize("evil", INSTRUCTIONS)
def test_no_key_can_inject_an_instruction(where: str | tuple[str, ...], evil: str) -> None:
    value = deepcopy(VALUE)
    at = value
    for part in (where,) if isinstance(where, str) else where:
        at = at[part]
    at[evil] = next(iter(at.values()))
    assert problems(json.dumps(value))


@given(st.text(min_size=1))
def test_an_environment_value_that_is_accepted_is_plain(text: str) -> None:
    value = deepcopy(VALUE)
    value["accelerators"]["cuda"]["env"] = {"A": text}
    try:
        matrix = parse(json.dumps(value))
    except ProblemsError:
        return
    accepted = dict(matrix.accelerators[0].env)["A"]
    assert accepted == text
    assert accepted.isascii()
    assert accepted.isprintable()
    assert not set(accepted) & set("\"'`$\\\n")


# The schema.


def test_the_schema_is_a_schema_and_accepts_the_default_matrix() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(yaml.safe_load((ROOT / "matrix.yaml").read_text()), schema())


def test_every_key_of_the_schema_is_described_or_has_a_title() -> None:
    definitions = schema()["$defs"]

    def bare(value: object, path: str) -> list[str]:
        if not isinstance(value, dict):
            return []
        out: list[str] = []
        for key, child in value.get("properties", {}).items():
            target = definitions[child["$ref"].rsplit("/", 1)[1]] if "$ref" in child else {}
            if not ({"description", "title", "enum"} & (set(child) | set(target))) and "items" not in child:
                out.append(f"{path}.{key}")
            out += bare(child, f"{path}.{key}")
        return out

    assert [name for k, v in {"": schema(), **definitions}.items() for name in bare(v, k)] == []


def test_every_pattern_is_anchored_and_has_words_for_its_error() -> None:
    def walk(value: object) -> None:
        if isinstance(value, dict):
            if "pattern" in value:
                assert value["pattern"].startswith("^"), value
                assert value["pattern"].endswith("$"), value
                assert "title" in value, value
            for child in value.values():
                walk(child)

    walk(schema())


# Several Pythons.

PYTHONS = SMALL.replace('python: "3.13"', 'python: ["3.13", "3.11"]').replace(
    "  debian13: {", "  debian12: {debian: bookworm, packages: [python3.11]}\n  debian13: {"
)


def test_the_first_python_is_in_no_name_and_the_others_are() -> None:
    cells = parse(PYTHONS).select(["cuda-2.15*"], "amd64")
    assert [(c.image, c.python, c.stem, c.suffix) for c in cells] == [
        ("cuda-2.15", "3.13", "cuda-2.15", ""),
        ("cuda-2.15-devel", "3.13", "cuda-2.15", ""),
        ("cuda-2.15-py311", "3.11", "cuda-2.15", "-py311"),
        ("cuda-2.15-py311-devel", "3.11", "cuda-2.15", "-py311"),
    ]
    assert [c.id for c in parse(PYTHONS).select(["mps-2.6-py311"])] == ["mps-2.6-py311-arm64"]
    one = parse(SMALL.replace('python: "3.13"', 'python: ["3.13"]'))
    assert [c.id for c in one.cells] == [c.id for c in parse(SMALL).cells]


def test_each_python_gets_the_first_base_that_has_it() -> None:
    known = {"debian13": ("3.13",), "debian12": ("3.11", "3.12"), "later": None}

    def standing(bases: str) -> dict[str, str]:
        text = PYTHONS.replace("base: debian13", f"base: {bases}").replace(
            "  debian12:", "  later: {debian: forky, packages: [python3]}\n  debian12:"
        )
        matrix = parse_matrix(text, Path("matrix.yaml"), lambda base: known[base.name])
        return {cell.python: cell.base.name for cell in matrix.cells if not cell.native}

    assert standing("[debian13, debian12]") == {"3.13": "debian13", "3.11": "debian12"}
    assert standing("[debian12, debian13]") == {"3.13": "debian13", "3.11": "debian12"}
    # a base that is not locked yet may have any; one is taken where none has it, and refused when it is locked
    assert standing("[later, debian13]") == {"3.13": "debian13", "3.11": "later"}
    assert standing("[debian13]") == {"3.13": "debian13", "3.11": "debian13"}


def test_a_python_can_be_excluded_for_some_versions_of_torch() -> None:
    rule = '  - {python: "<3.12", versions: "<2.10", reason: no wheel, instead: "cuda-2.15{version}"}\n'
    text = (PYTHONS + rule).replace("cuda-2.15{version}", "PyTorch 2.15, not {version}")
    matrix = parse(text)
    assert "cuda-2.6-py311" not in {cell.name for cell in matrix.cells}
    assert {"cuda-2.6", "cuda-2.15-py311"} <= {cell.name for cell in matrix.cells}
    with pytest.raises(MatrixError, match=r"cuda-2\.6-py311 in a container on amd64: no wheel") as caught:
        matrix.select(["cuda-2.6-py311"], "amd64")
    assert caught.value.hint == "PyTorch 2.15, not 2.6-py311"
    assert matrix.explain("cuda", "2.6", os=Os.LINUX, arch="amd64").exists
    assert not matrix.explain("cuda", "2.6", os=Os.LINUX, arch="amd64", suffix="-py311").exists


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "cuda-2.6-py312",
            "Python 3.12 is not in matrix.yaml, which has 3.13, 3.11",
            'to add it: python: ["3.13", "3.11", "3.12"]; then `buildctl lock`',
        ),
        (
            "cuda-2.6-py313-devel",
            "Python 3.13 is the first in matrix.yaml, which no name mentions",
            "leave out -py313",
        ),
    ],
)
def test_a_name_with_a_python_that_the_matrix_does_not_have(name: str, message: str, hint: str) -> None:
    with pytest.raises(MatrixError) as caught:
        parse(PYTHONS).select([name])
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("python", "problem"),
    [
        ("[]", "python: must not be empty"),
        ('["3.13", "3.13"]', "python: has '3.13' more than once"),
        ("[3.13]", 'python[0]: value 3.13 is a number (quote it: "3.13")'),
        ('["3.13.1"]', "python[0]: '3.13.1' is not a quoted Python minor version"),
    ],
)
def test_a_list_of_pythons_that_is_wrong(python: str, problem: str) -> None:
    assert any(problem in text for text in problems(changed('python: "3.13"', f"python: {python}")))


def test_the_compressions_of_the_schema_are_those_that_can_be_made() -> None:
    assert schema()["properties"]["compression"]["enum"] == list(COMPRESSIONS)
    assert parse(SMALL).compression == "zstd"
    assert parse(f"{SMALL}compression: zstd:chunked\n").compression == "zstd:chunked"


@pytest.mark.parametrize("method", [None, *COMPRESSIONS])
def test_the_levels_of_the_schema_are_those_that_can_be_made(method: str | None) -> None:
    start = 'versions: {"2.6": 2.6.0}\naccelerators: {cpu: {}}\n' + (f"compression: {method}\n" if method else "")
    assert parse(start).compression_level is None
    for level in (*map(str, range(-1, 30)), "none", "fast", "109", "01"):
        text = f'{start}compression-level: "{level}"\n'
        if _possible(method or "zstd", level):
            assert parse(text).compression_level == level
            continue
        with pytest.raises(ProblemsError) as caught:
            parse(text)
        (problem,) = caught.value.problems
        assert f"compression-level: '{level}' is not a level of {method or 'zstd'} (1 to" in problem


def _possible(method: str, level: str) -> bool:
    with suppress(UsageError):
        return bool(compression_of(method, level))
    return False
