from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.dockerfile.parse import assignments, parse_dockerfile
from buildctl.dockerfile.render import drift, install_steps, render_image
from buildctl.ground.errors import DockerfileError, LockError
from buildctl.lock.claims import claims_of
from buildctl.lock.inside.base_image import ImageLock
from buildctl.lock.locked import LockedCell
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.cells import Cell
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import parse_matrix
from buildctl.oci.digest import Digest

ROOT = Path(__file__).parents[3]
ANY = Digest("0" * 64)


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    path = ROOT / "matrix.yaml"
    return parse_matrix(path.read_text(), path)


def lock(arch: str, **versions: tuple[str, int]) -> WheelLock:
    wheels = tuple(
        LockedWheel(name=n.replace("_", "-"), version=v, filename=f"{n}-{v}-py3-none-any.whl", size=size, digest=ANY)
        for n, (v, size) in sorted(versions.items())
    )
    return WheelLock(name="cuda-2.15", platform=f"linux/{arch}", python="3.13", inputs=ANY, wheels=wheels)


HEAVY, LIGHT = 50_000_000, 1_000
CUDA = {
    "torch": ("2.15.0", HEAVY),
    "nvidia_cublas": ("13.4", HEAVY),
    "nvidia_cuda_runtime": ("13.2.86", LIGHT),
    "triton": ("3.9.0", HEAVY),
    "numpy": ("2.5.5", LIGHT),
}


def cells(matrix: Matrix, name: str) -> list[Cell]:
    return [c for c in matrix.cells if c.image == name]


def render(
    matrix: Matrix, amd: WheelLock | None = None, arm: WheelLock | None = None, templates: Path | None = None
) -> str:
    locks = {"amd64": amd or lock("amd64", **CUDA), "arm64": arm or lock("arm64", **CUDA)}
    return render_image(pinned(cells(matrix, "cuda-2.15"), locks), templates or ROOT / "templates")


def pinned(cells: Sequence[Cell], locks: Mapping[str, WheelLock]) -> list[LockedCell]:
    """With the claims that follow from the locks alone."""
    each = [(cell, locks[cell.arch]) for cell in cells]
    return [LockedCell(cell=c, wheels=lock, debian=(), claims=claims_of(c, lock)) for c, lock in each]


def test_heavy_wheels_get_a_step_each_stable_first_and_torch_last() -> None:
    steps = install_steps({"amd64": lock("amd64", **CUDA)})
    assert [s.stage for s in steps] == ["nvidia-cublas", "triton", "small_wheels", "torch"]
    assert steps[2].requirements == ["numpy==2.5.5", "nvidia-cuda-runtime==13.2.86"]


def test_where_architectures_differ_requirements_carry_a_marker() -> None:
    steps = install_steps(
        {"amd64": lock("amd64", **CUDA), "arm64": lock("arm64", **(CUDA | {"numpy": ("2.4", LIGHT)}))}
    )
    assert steps[2].requirements == [
        'numpy==2.5.5 ; platform_machine == "x86_64"',
        'numpy==2.4 ; platform_machine == "aarch64"',
        "nvidia-cuda-runtime==13.2.86",
    ]


def test_a_wheel_of_one_architecture_only_carries_a_marker() -> None:
    without = {k: v for k, v in CUDA.items() if k != "triton"}
    steps = install_steps({"amd64": lock("amd64", **CUDA), "arm64": lock("arm64", **without)})
    assert steps[1].requirements == ['triton==3.9.0 ; platform_machine == "x86_64"']


def test_the_dockerfile_is_one_for_all_architectures_and_parses(matrix: Matrix) -> None:
    found = parse_dockerfile(render(matrix), path="Dockerfile")
    assert [i.keyword for i in found].count("FROM") == 8
    copied = [i.flag("from") for i in found if i.keyword == "COPY" and i.text == "/out/ /"]
    assert copied == ["nvidia-cublas", "triton", "small_wheels", "torch", "own_files"]
    labels = dict(pair for i in found if i.keyword == "LABEL" for pair in assignments(i, {}))
    assert labels["dev.buildctl.cuda"] == "13.2"
    assert labels["dev.buildctl.driver-floor"] == "580"
    assert labels["org.opencontainers.image.version"] == "2.15.0"


def test_the_driver_is_asked_for_by_the_floor_of_the_cuda_major(matrix: Matrix) -> None:
    assert 'ENV NVIDIA_REQUIRE_CUDA="cuda>=13.0"' in render(matrix)


def test_a_cpu_image_has_no_nvidia_environment(matrix: Matrix) -> None:
    cpu = replace(lock("arm64", torch=("2.6.0", HEAVY), numpy=("2.5", LIGHT)), name="cpu-2.6")
    text = render_image(pinned(cells(matrix, "cpu-2.6"), {"arm64": cpu}), ROOT / "templates")
    assert "NVIDIA" not in text
    assert "dev.buildctl.cuda" not in text


def test_architectures_that_disagree_about_torch_are_refused(matrix: Matrix) -> None:
    with pytest.raises(LockError, match=r"cuda-2.15: its architectures disagree: torch 2.15.0, CUDA .* torch 2.14.1"):
        render(matrix, arm=lock("arm64", **(CUDA | {"torch": ("2.14.1", HEAVY)})))


def test_a_cuda_cell_without_a_cuda_runtime_is_refused(matrix: Matrix) -> None:
    with pytest.raises(LockError, match=r"accelerators\.cuda .* claims CUDA, .* which is a CPU build"):
        render(matrix, amd=lock("amd64", torch=("2.15.0", HEAVY)))


def test_a_cpu_cell_with_nvidia_wheels_is_refused(matrix: Matrix) -> None:
    with pytest.raises(
        LockError, match=r"accelerators\.cpu .* claims CPU, .* built for CUDA 13\.2 .*, not a CPU build"
    ):
        render_image(pinned(cells(matrix, "cpu-2.6"), {"arm64": lock("arm64", **CUDA)}), ROOT / "templates")


def test_an_unknown_cuda_major_is_refused_rather_than_guessed(matrix: Matrix) -> None:
    future = CUDA | {"nvidia_cuda_runtime": ("99.1", LIGHT)}
    with pytest.raises(LockError, match=r"the minimum driver of CUDA 99.1 is unknown"):
        render(matrix, amd=lock("amd64", **future), arm=lock("arm64", **future))


@pytest.mark.parametrize(
    "value", ["a\nRUN rm -rf /", "a\rRUN x", "a\u2028RUN x", "a\x00", "a\x85b"], ids=["lf", "cr", "ls", "nul", "nel"]
)
def test_a_value_with_a_line_break_is_refused(matrix: Matrix, value: str) -> None:
    cell = cells(matrix, "cpu-2.6")[0]
    cell = replace(cell, accelerator=replace(cell.accelerator, env=(("A", value),)))
    with pytest.raises(DockerfileError, match="control character"):
        render_image(pinned([cell], {"arm64": lock("arm64", torch=("2.6.0", HEAVY))}), ROOT / "templates")


@pytest.mark.parametrize("value", ['x" B="y', "x\\", "$HOME ${PATH}", "x && rm -rf /", "' \" `", "", "# no comment"])
def test_any_other_value_arrives_as_it_is(matrix: Matrix, value: str) -> None:
    cell = cells(matrix, "cpu-2.6")[0]
    cell = replace(cell, accelerator=replace(cell.accelerator, env=(("A", value),)))
    text = render_image(pinned([cell], {"arm64": lock("arm64", torch=("2.6.0", HEAVY))}), ROOT / "templates")
    env = dict(
        p for i in parse_dockerfile(text, path="D") if i.keyword == "ENV" for p in assignments(i, {"HOME": "/h"})
    )
    assert env["A"] == value


def test_a_template_that_lets_a_value_become_an_instruction_is_caught(matrix: Matrix, tmp_path: Path) -> None:
    (tmp_path / "image.Dockerfile.j2").write_text("FROM base\n{{ env[0][1] }} x=1\n")
    cell = cells(matrix, "cpu-2.6")[0]
    cell = replace(cell, accelerator=replace(cell.accelerator, env=(("A", "ENV"),)))
    # the template would execute whatever the matrix says: here it is ENV, with a neutral value it is X
    with pytest.raises(DockerfileError, match="a matrix value changed this instruction"):
        render_image(pinned([cell], {"arm64": lock("arm64", torch=("2.6.0", HEAVY))}), tmp_path)


def test_the_template_of_the_name_wins_over_the_accelerators(matrix: Matrix, tmp_path: Path) -> None:
    for stem in ("image", "cuda", "cuda-2.15"):
        (tmp_path / f"{stem}.Dockerfile.j2").write_text(f"FROM base\n# {stem}\n")
    assert render(matrix, templates=tmp_path).endswith("# cuda-2.15\n")
    (tmp_path / "cuda-2.15.Dockerfile.j2").unlink()
    assert render(matrix, templates=tmp_path).endswith("# cuda\n")


def test_a_template_error_names_file_and_line(matrix: Matrix, tmp_path: Path) -> None:
    (tmp_path / "image.Dockerfile.j2").write_text("FROM base\n{% if %}\n")
    with pytest.raises(DockerfileError, match=r"templates/image\.Dockerfile\.j2:2: "):
        render(matrix, templates=tmp_path)
    (tmp_path / "image.Dockerfile.j2").write_text("FROM {{ nothing }}\n")
    with pytest.raises(DockerfileError, match="'nothing' is undefined"):
        render(matrix, templates=tmp_path)


def test_drift_is_a_diff_from_committed_to_rendered(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    assert drift(path, "FROM a\n", shown_as="x").startswith("--- /dev/null\n+++ x (rendered)\n")
    path.write_text("FROM b\n")
    assert "-FROM b\n+FROM a\n" in drift(path, "FROM a\n", shown_as="x")
    path.write_text("FROM a\n")
    assert drift(path, "FROM a\n", shown_as="x") == ""


def test_own_wheels_files_user_env_and_labels(matrix: Matrix) -> None:
    own = {
        "wheels": ("wheels/a-1-py3-none-any.whl", "wheels/b-1-py3-none-any.whl"),
        "files": (("app/", "/app/"), ("x.toml", "/etc/x.toml")),
        "user": "1234:5",
        "env": (("LANG", "de_DE.UTF-8"),),
        "labels": (("org.example.team", "ml"), ("org.opencontainers.image.licenses", "Proprietary")),
    }
    each = [replace(cell, **own) for cell in cells(matrix, "cuda-2.15")]  # type: ignore[arg-type]
    locks = {"amd64": lock("amd64", **CUDA), "arm64": lock("arm64", **CUDA)}
    lines = render_image(pinned(each, locks), ROOT / "templates").splitlines()
    start = lines.index("COPY wheels/a-1-py3-none-any.whl wheels/b-1-py3-none-any.whl /wheels/")
    assert lines[start + 1] == 'ENV UV_FIND_LINKS="/wheels"'
    start = lines.index("COPY app/ /files/app/")
    assert lines[start + 1 : start + 3] == ["COPY x.toml /files/etc/x.toml", 'RUN ["install-wheels"]']
    assert {"USER 1234:5", 'ENV LANG="de_DE.UTF-8"', 'LABEL org.example.team="ml"'} <= set(lines)
    assert 'LABEL org.opencontainers.image.licenses="Proprietary"' in lines


def image(arch: str, **more: str) -> ImageLock:
    values = dict.fromkeys(("base", "flavour", "image", "digest", "manifest", "python", "interpreter", "home"), "")
    values |= {"purelib": "", "commands": "python3 python", "glibc": "2.41", "user": "", "path": "/opt/py/bin:/usr/bin"}
    return ImageLock(**{**values, "arch": arch, **more})


def test_what_was_found_in_a_base_image_stays(matrix: Matrix) -> None:
    locks = {"amd64": lock("amd64", **CUDA), "arm64": lock("arm64", **CUDA)}
    found = pinned(cells(matrix, "cuda-2.15"), locks)

    def rendered(**more: str) -> list[str]:
        with_image = [replace(one, image=image(one.cell.arch, **more)) for one in found]
        return render_image(with_image, ROOT / "templates").splitlines()

    assert 'ENV PATH="/home/torch/.local/bin:/opt/py/bin:/usr/bin:/usr/local/bin"' in rendered()
    assert 'ENV PATH="${PATH}:/usr/local/bin"' in rendered(), "where install-wheels is"
    assert not [line for line in rendered(path="/usr/local/bin:/bin") if "${PATH}" in line]
    assert "USER 1000:1000" in rendered()
    assert "USER 8:8" in rendered(user="8:8")
    own = "COPY --chmod=0755 common/python /out/usr/local/bin/python"
    assert own not in rendered()
    assert own in rendered(commands="python3")
    one, two = (replace(one, image=image(one.cell.arch, user=one.cell.arch)) for one in found)
    with pytest.raises(LockError, match="its base differs between architectures in PATH, user or commands"):
        render_image([one, two], ROOT / "templates")
