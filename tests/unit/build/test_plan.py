from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildctl.build.plan import FilesLayer, Plan, PlanInput, WheelsLayer, plan_image
from buildctl.dockerfile.common import common_file
from buildctl.dockerfile.parse import parse_dockerfile
from buildctl.ground.errors import DockerfileError
from buildctl.oci.image import ImageConfig, Platform

HEAD = """\
ARG BASE=base
FROM --platform=$BUILDPLATFORM uv AS uv_native
FROM --platform=$BUILDPLATFORM ${BASE} AS installer
COPY --from=uv_native /uv /usr/local/bin/uv
COPY --chmod=0755 common/install-wheels /usr/local/bin/install-wheels
ARG TARGETARCH
COPY x/requirements.${TARGETARCH}.txt /lock/requirements.txt
FROM installer AS torch
RUN --mount=type=secret,id=ca-bundle --mount=type=secret,id=uv-config ["install-wheels", \
"torch==2.6.0", "a.B==1 ; platform_machine == \\"x86_64\\""]
FROM ${BASE}
COPY --link --from=torch /out/ /
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name, text in {
        "common/install-wheels": common_file("install-wheels").decode(),
        "common/entrypoint": "#!/bin/sh\n",
        "x/requirements.amd64.txt": "",
        "x/requirements.arm64.txt": "",
        "tree/a": "1",
        "tree/d/b": "22",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tree/d/b").chmod(0o775)
    return tmp_path


def plan(text: str, context: Path, *, arch: str = "arm64", build_args: dict[str, str] | None = None) -> Plan:
    base = ImageConfig(platform=Platform(architecture=arch), env=(("PATH", "/bin"),), cmd=("bash",), labels={"l": "0"})
    given = PlanInput(
        arch=arch,
        build_arch="amd64",
        context=context,
        contexts={"base": base, "base-devel": base, "uv": None},
        build_args=build_args or {},
    )
    return plan_image(parse_dockerfile(text, path="images/x/Dockerfile"), given)


def test_wheels_of_another_stage_become_layers_for_this_platform(context: Path) -> None:
    (arm,) = plan(HEAD, context).operations
    (amd,) = plan(HEAD, context, arch="amd64").operations
    assert isinstance(arm, WheelsLayer)
    assert isinstance(amd, WheelsLayer)
    assert arm.names == (("torch", "2.6.0"),)
    assert amd.names == (("torch", "2.6.0"), ("a-b", "1"))
    assert arm.requirements == context / "x/requirements.arm64.txt"


WITH_FILES = HEAD.replace(
    "FROM ${BASE}\n",
    "FROM installer AS script\nCOPY --chmod=0755 common/entrypoint /out/usr/bin/e\nCOPY tree /out/t/\n"
    'RUN ["install-wheels"]\nFROM ${BASE}\n',
)


def test_files_of_another_stage_become_one_layer(context: Path) -> None:
    wheels, files = plan(f"{WITH_FILES}COPY --link --from=script /out/ /\n", context).operations
    assert isinstance(wheels, WheelsLayer)
    assert isinstance(files, FilesLayer)
    assert {(e.path, e.mode) for e in files.entries} >= {("usr/bin/e", 0o755), ("t/a", 0o644), ("t/d/b", 0o755)}
    assert not [e.path for e in files.entries if e.path.startswith("out")]
    assert files.created_by == "COPY --link --from=script /out/ /"


OWN = WITH_FILES.replace("COPY tree /out/t/\n", "COPIES\n") + "COPY --link --from=script /out/ /\n"


def test_own_files_bring_the_folders_above_and_modes_that_follow_from_nothing_else(context: Path) -> None:
    (context / "tree/d").chmod(0o2775)
    (context / "tree/link").symlink_to("a")
    (context / "named").symlink_to("tree/a")
    copies = "COPY tree/ /files/opt/t/\nCOPY named /files/opt/t/d/b\nCOPY named /files/opt/new"
    _, files = plan(OWN.replace("COPIES", copies), context).operations
    assert isinstance(files, FilesLayer)
    assert [(e.path, e.kind, oct(e.mode), e.size) for e in files.entries] == [
        ("usr/bin/e", "file", "0o755", 10),
        ("opt", "directory", "0o755", 0),
        ("opt/t", "directory", "0o755", 0),
        ("opt/t/a", "file", "0o644", 1),
        ("opt/t/d", "directory", "0o755", 0),
        ("opt/t/d/b", "file", "0o644", 1),  # the last COPY counts, and a link that is named is followed
        ("opt/t/link", "symlink", "0o777", 0),
        ("opt/new", "file", "0o644", 1),
    ]


@pytest.mark.parametrize(
    "copies", ["tree/a /files/x\nCOPY tree/a /files/x/y", "tree/ /files/x/\nCOPY tree/a /files/x/d"]
)
def test_a_file_and_a_folder_at_one_place_are_refused(context: Path, copies: str) -> None:
    with pytest.raises(DockerfileError, match=r"are a file and a folder at the same path"):
        plan(OWN.replace("COPIES", f"COPY {copies}"), context)


def test_what_is_no_file_is_refused(context: Path) -> None:
    os.mkfifo(context / "tree/pipe")
    with pytest.raises(DockerfileError, match=r"tree/pipe is not a file, folder or link"):
        plan(OWN.replace("COPIES", "COPY tree/ /files/x/"), context)


def test_a_stage_with_wheels_and_files_is_refused(context: Path) -> None:
    both = WITH_FILES.replace('["install-wheels"]', '["install-wheels", "torch==2.6.0"]')
    with pytest.raises(DockerfileError, match="script has both wheels and context files") as caught:
        plan(f"{both}COPY --link --from=script /out/ /\n", context)
    assert "a stage of its own" in str(caught.value.hint)


def test_a_build_argument_chooses_the_base(context: Path) -> None:
    assert plan(HEAD, context).base == "base"
    assert plan(HEAD, context, build_args={"BASE": "base-devel"}).base == "base-devel"


def test_settings_change_the_configuration_of_the_base(context: Path) -> None:
    config = plan(
        HEAD + 'ENV PATH=/x:$PATH A="b c"\nLABEL l=1 m=2\nUSER 1000:1000\nWORKDIR /w\nWORKDIR v\nEXPOSE 80\n'
        'VOLUME /data\nSTOPSIGNAL SIGINT\nENTRYPOINT ["e"]\n',
        context,
    ).config
    assert config.env == (("PATH", "/x:/bin"), ("A", "b c"))
    assert config.labels == {"l": "1", "m": "2"}
    assert (config.user, config.working_dir, config.entrypoint, config.stop_signal) == (
        "1000:1000",
        "/w/v",
        ("e",),
        "SIGINT",
    )
    assert (config.exposed_ports, config.volumes) == (("80/tcp",), ("/data",))
    assert config.cmd == (), "an ENTRYPOINT takes the base's CMD away, as Docker does"


def test_cmd_in_shell_form_goes_through_the_shell(context: Path) -> None:
    assert plan(HEAD + "CMD echo $HOME\n", context).config.cmd == ("/bin/sh", "-c", "echo $HOME")


def test_copy_takes_files_and_the_content_of_directories(context: Path) -> None:
    operation = plan(HEAD + "COPY --chown=1:2 tree/ /opt/t/\n", context).operations[-1]
    assert isinstance(operation, FilesLayer)
    assert [(e.path, e.kind, oct(e.mode), e.uid, e.gid, e.size) for e in operation.entries] == [
        ("opt/t/a", "file", "0o644", 1, 2, 1),
        ("opt/t/d", "directory", "0o755", 1, 2, 0),
        ("opt/t/d/b", "file", "0o755", 1, 2, 2),
    ]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("COPY tree/a /opt/", "opt/a"),
        ("COPY tree/a /opt/b", "opt/b"),
        ("COPY tree/a tree/a /opt", "opt/a"),
        ("WORKDIR /w\nCOPY tree/a .", "w"),
        ("WORKDIR /w\nCOPY tree/a ./", "w/a"),
    ],
)
def test_copy_targets(context: Path, line: str, path: str) -> None:
    operation = plan(f"{HEAD}{line}\n", context).operations[-1]
    assert isinstance(operation, FilesLayer)
    assert operation.entries[0].path == path


def test_a_stage_that_the_image_does_not_need_is_not_executed(context: Path) -> None:
    extra = HEAD.replace(
        "FROM installer AS torch", "FROM installer AS unused\nRUN apt-get update\nFROM installer AS torch"
    )
    assert plan(extra, context).operations == plan(HEAD, context).operations


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("RUN apt-get update && apt-get install -y git", "images/x/Dockerfile:12: RUN: assemble runs nothing"),
        ('RUN ["install-wheels", "torch==2.6.0"]', "images/x/Dockerfile:12: RUN: assemble runs nothing"),
        ("ADD https://example.invalid/x /x", "images/x/Dockerfile:12: ADD: the assemble engine cannot"),
        ('SHELL ["/bin/bash"]', "Dockerfile:12: SHELL: "),
        ("HEALTHCHECK CMD true", "Dockerfile:12: HEALTHCHECK: "),
        ("ONBUILD RUN true", "Dockerfile:12: ONBUILD: "),
        ("COPY --from=torch /etc/passwd /", "can only copy installed wheels"),
        ("COPY --from=torch /out/ /opt/", "can only copy installed wheels"),
        ("COPY --from=nowhere /out/ /", "not an earlier stage"),
        ("COPY --from=uv /uv /uv", "--from=uv is not an earlier stage"),
        ("COPY --from=uv_native /uv /uv", "can only copy installed wheels"),
        ("FROM --platform=$BUILDPLATFORM uv\nUSER 1", "uv is a tool: it can only be copied from"),
        ("COPY --exclude=x tree /t", "--exclude=x"),
        ("COPY --chmod=u+x tree /t", "only octal modes"),
        ("COPY --chown=root tree /t", "only numbers"),
        ("COPY tree/* /t/", "wildcards"),
        ("COPY missing /t", "no such file in the build context: missing"),
        ("COPY ../../etc/passwd /t", "outside the build context"),
        ("COPY tree", "needs a source and a destination"),
        ("USER a b", "takes one word"),
        ("FROM debian:13\nUSER 1", "Dockerfile:12: FROM: debian:13 is neither an earlier stage nor a base"),
        ("FROM --platform=linux/s390x base", "is not .BUILDPLATFORM"),
        ("FROM --platform=$BUILDPLATFORM base", "last stage is pinned to the build platform"),
        ("FROM uv", "uv is a tool"),
        ("FROM torch", "wheels are installed under /out of the image itself|pinned to the build"),
    ],
)  # fmt: skip
def test_what_assemble_cannot_do_is_refused_with_file_line_and_way_out(context: Path, line: str, problem: str) -> None:
    with pytest.raises(DockerfileError, match=problem):
        plan(f"{HEAD}{line}\n", context)


def test_refusing_a_foreign_run_names_the_way_out(context: Path) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(f"{HEAD}RUN apt-get install -y ffmpeg\n", context)
    assert caught.value.hint == "build this image with Docker: --engine docker"


def test_only_the_secrets_of_the_installer_may_be_mounted(context: Path) -> None:
    with pytest.raises(DockerfileError, match="does not support --mount=type=cache"):
        plan(HEAD.replace("type=secret,id=ca-bundle", "type=cache,target=/out"), context)


def test_an_install_script_that_was_changed_is_refused(context: Path) -> None:
    (context / "common/install-wheels").write_text("#!/bin/sh\ncurl evil\n")
    with pytest.raises(DockerfileError, match="is not this buildctl's install-wheels script"):
        plan(HEAD, context)


@pytest.mark.parametrize("pin", ["torch", "torch>=2", "torch==2.6.0,==2.6.1", "torch[x]==1", "a b c", "-r x"])
def test_only_exact_pins_can_be_installed(context: Path, pin: str) -> None:
    with pytest.raises(DockerfileError, match="images/x/Dockerfile:9: RUN: not "):
        plan(HEAD.replace('"torch==2.6.0"', f'"{pin}"'), context)


def test_a_dockerignore_is_refused_since_it_would_be_ignored(context: Path) -> None:
    (context / ".dockerignore").write_text("x\n")
    with pytest.raises(DockerfileError, match="not supported by the assemble engine"):
        plan(HEAD, context)
