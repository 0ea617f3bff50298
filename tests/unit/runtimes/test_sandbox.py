"""The parts of the sandbox that need no sandbox; the rest: tests/integration/testing/test_sandbox_runtime.py."""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError, RuntimeUnavailableError
from buildctl.oci.image import ImageConfig, Platform
from buildctl.runtimes.sandbox import sandbox
from buildctl.runtimes.sandbox.emulation import (
    Emulator,
    binfmt_rule,
    find_emulators,
    host_registration,
    is_static,
    native_arch,
    processor,
)
from buildctl.runtimes.sandbox.gpu import NO_DEVICE, Passthrough, find_gpus
from buildctl.runtimes.sandbox.process import Launched
from buildctl.runtimes.sandbox.sandbox import OverlayRefusedError, SandboxSession, open_session, unavailable
from buildctl.runtimes.sandbox.tree import Tree
from buildctl.runtimes.sandbox.user import User, find_user

PASSWD = "root:x:0:0:root:/root:/bin/sh\ntorch:x:1000:1001::/home/torch:/bin/sh\nbroken\n"
GROUP = "root:x:0:\ntorch:x:1001:\nvideo:x:44:root,torch\n"


def files(path: str) -> str:
    return {"etc/passwd": PASSWD, "etc/group": GROUP}[path]


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(uid=0, gid=0, home="/root", groups=(44,))),
        ("torch", User(uid=1000, gid=1001, home="/home/torch", groups=(44,))),
        ("1000", User(uid=1000, gid=1001, home="/home/torch", groups=(44,))),
        ("1000:7", User(uid=1000, gid=7, home="/home/torch")),
        ("12345", User(uid=12345, gid=0, home="/")),
        ("12345:12345", User(uid=12345, gid=12345, home="/")),
        ("torch:video", User(uid=1000, gid=44, home="/home/torch")),
    ],
)
def test_a_user_is_read_as_docker_reads_it(text: str, user: User) -> None:
    assert find_user(text, files) == user


@pytest.mark.parametrize(("text", "says"), [("nobody", "user 'nobody' is not in"), ("0:nogroup", "group 'nogroup'")])
def test_an_unknown_name_is_the_image_s_fault(text: str, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        find_user(text, files)


def test_a_small_file_is_read_from_the_uppermost_layer_and_never_through_a_link(tmp_path: Path) -> None:
    for name, text in (("low", "low"), ("high", "high"), ("host", "secret")):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "passwd").write_text(text)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "etc").symlink_to(tmp_path / "host" / "etc")
    assert Tree(layers=(tmp_path / "high", tmp_path / "low")).read("etc/passwd") == "high"
    assert Tree(layers=(tmp_path / "evil", tmp_path / "low")).read("etc/passwd") == "low"
    assert Tree(layers=(tmp_path / "low",)).read("etc/group") == ""


def test_the_rule_matches_programs_of_the_machine_and_no_others() -> None:
    _, name, kind, offset, magic, mask, program, flags = binfmt_rule("qemu-x", 183, Path("/q")).split(":")
    assert (name, kind, offset, program, flags) == ("qemu-x", "M", "", "/q", "F")
    magic_bytes, mask_bytes = (bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask))

    def matches(elf_type: int, machine: int, abi: int = 0) -> bool:
        header = b"\x7fELF\x02\x01\x01" + bytes([abi]) + bytes(8) + struct.pack("<HH", elf_type, machine)
        return all(h & m == w for h, m, w in zip(header, mask_bytes, magic_bytes, strict=True))

    assert matches(2, 183)
    assert matches(3, 183)  # position independent
    assert matches(3, 183, abi=3)  # GNU
    assert not matches(3, 62)
    assert not matches(1, 183)  # an object file


@pytest.mark.parametrize(
    ("flags", "state", "machine", "found"),
    [
        ("POCF", "enabled", "b700", "qemu-aarch64"),
        ("OC", "enabled", "b700", None),  # looked up inside the image, where it is not
        ("F", "disabled", "b700", None),
        ("F", "enabled", "3e00", None),
    ],
)
def test_only_a_registration_that_works_in_another_root_counts(
    tmp_path: Path, flags: str, state: str, machine: str, found: str | None
) -> None:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").touch()
    (tmp_path / "qemu-aarch64").write_text(
        f"{state}\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset 0\n"
        f"magic 7f454c46020101000000000000000000{'0200'}{machine}\nmask ff\n"
    )
    assert host_registration(183, tmp_path) == found


def test_an_architecture_that_nobody_knows_is_no_traceback() -> None:
    with pytest.raises(RuntimeUnavailableError, match="riscv64") as caught:
        find_emulators("riscv64")
    assert caught.value.hint == "known: amd64, arm64"


def test_without_binfmt_misc_there_is_no_registration(tmp_path: Path) -> None:
    assert host_registration(183, tmp_path / "nothing") is None


def elf(*kinds: int) -> bytes:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(kinds))
    return bytes(header) + b"".join(struct.pack("<I", kind) + bytes(52) for kind in kinds)


@pytest.mark.parametrize(
    ("content", "static"), [(elf(1, 1), True), (elf(1, 3), False), (b"#!/bin/sh\n", False), (b"", False)]
)
def test_an_emulator_must_not_need_a_loader_from_the_image(tmp_path: Path, content: bytes, static: bool) -> None:
    (tmp_path / "qemu").write_bytes(content)
    assert is_static(tmp_path / "qemu") is static


def devices(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to("/dev/null")  # a character device, for whoever asks
    return folder


def libraries(folder: Path, *names: str) -> list[Path]:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return sorted(folder.iterdir())


WHOLE = ("nvidia0", "nvidiactl", "nvidia-uvm")
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-glcore.so.1", "libcudart.so.12")


def test_no_device_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").write_text("no device at all")
    assert find_gpus("amd64", dev=tmp_path / "dev") == Passthrough(reason=NO_DEVICE)


def test_a_gpu_is_passed_with_its_driver_and_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.runtimes.sandbox.gpu.which", lambda name: Path("/usr/bin") / name)
    found = find_gpus("amd64", dev=devices(tmp_path / "dev", *WHOLE), libraries=libraries(tmp_path / "lib", *LIBRARIES))
    assert found.available
    assert {target: writable for _, target, writable in found.binds} == {
        "dev/nvidia0": True,
        "dev/nvidiactl": True,
        "dev/nvidia-uvm": True,
        "usr/lib/x86_64-linux-gnu/libcuda.so.1": False,
        "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": False,
        "usr/bin/nvidia-smi": False,
    }


def test_a_driver_that_a_cluster_mounts_is_found_where_the_loader_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries(tmp_path / "driver", *LIBRARIES)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}/driver")
    found = find_gpus("amd64", dev=devices(tmp_path / "dev", *WHOLE))
    sources = {target: source for source, target, _ in found.binds}
    assert sources["usr/lib/x86_64-linux-gnu/libcuda.so.1"] == f"{tmp_path}/driver/libcuda.so.1"


@pytest.mark.parametrize(
    ("nodes", "names", "says"),
    [
        (("nvidia0", "nvidiactl"), LIBRARIES, "/dev/nvidia-uvm is missing"),
        (WHOLE, ("libnvidia-ml.so.1",), "not the driver's libcuda.so.1"),
    ],
)
def test_half_a_gpu_is_none_and_the_reason_says_which_half(
    tmp_path: Path, nodes: tuple[str, ...], names: tuple[str, ...], says: str
) -> None:
    found = find_gpus("amd64", dev=devices(tmp_path / "dev", *nodes), libraries=libraries(tmp_path / "lib", *names))
    assert not found.available
    assert says in found.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root makes devices")
def test_a_gpu_that_the_sandbox_s_ids_may_not_open_is_none(tmp_path: Path) -> None:
    for minor, name in enumerate(WHOLE):
        try:
            os.mknod(tmp_path / name, 0o660 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null
        except PermissionError:
            pytest.skip("NOT RUN: no devices can be made in this container")
        (tmp_path / name).chmod(0o666 if minor else 0o660)
    given = {"dev": tmp_path, "libraries": libraries(tmp_path / "lib", *LIBRARIES)}
    assert find_gpus("amd64", **given).available  # type: ignore[arg-type]
    found = find_gpus("amd64", **given, as_others=True)  # type: ignore[arg-type]
    assert found.reason.startswith(f"{tmp_path}/nvidia0 is not accessible to everyone")


def config(*env: tuple[str, str]) -> ImageConfig:
    return ImageConfig(
        platform=Platform(architecture=native_arch()), user="5:6", env=(("PATH", "/b"), *env), working_dir="/w"
    )


def session(tmp_path: Path, **change: object) -> SandboxSession:
    fields = {
        "tree": Tree(layers=(tmp_path,)),
        "config": config(),
        "stage": tmp_path,
        "emulator": None,
        "gpu": Passthrough(reason="none"),
        "ids": None,
    }
    return SandboxSession(**{**fields, **change})  # type: ignore[arg-type]


def test_the_environment_is_the_image_s_then_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    who = User(uid=5, gid=6, home="/h")
    spec = session(tmp_path, config=config(("A", "image")))._spec(
        ["x"], who, extra={"A": "caller"}, read_only=True, tmp=True, network=False
    )
    assert spec["env"] == {"PATH": "/b", "HOME": "/h", "A": "caller"}
    assert (spec["uid"], spec["gid"], spec["cwd"], spec["scratch"]) == (5, 6, "/w", ["/tmp"])


def test_a_read_only_root_has_no_tmp_to_write_to_when_asked_for_none(tmp_path: Path) -> None:
    who = User(uid=5, gid=6, home="/h")
    spec = session(tmp_path)._spec(["x"], who, extra={}, read_only=True, tmp=False, network=False)
    assert (spec["read_only"], spec["scratch"]) == (True, [])


def test_a_home_that_the_image_sets_stays(tmp_path: Path) -> None:
    spec = session(tmp_path, config=config(("HOME", "/image")))._spec(
        ["x"], User(uid=5, gid=6, home="/h"), extra={}, read_only=True, tmp=True, network=False
    )
    assert spec["env"] == {"PATH": "/b", "HOME": "/image"}


REFUSED = Launched(outcome=None, step="namespaces", error="Operation not permitted")


def test_a_closed_kernel_is_said_with_a_way_out() -> None:
    error = unavailable(REFUSED)
    assert "cannot start a sandbox here: namespaces: Operation not permitted" in error.message
    assert error.hint
    assert not isinstance(error, OverlayRefusedError)
    assert isinstance(unavailable(Launched(outcome=None, step="overlayfs", error="x")), OverlayRefusedError)


@pytest.mark.parametrize(("listed", "expected"), [("neoverse-n1", (("QEMU_CPU", "neoverse-n1"),)), ("cortex-a72", ())])
def test_an_emulator_is_asked_whether_it_knows_the_processor(
    listed: str, expected: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\n[ "$*" = "-cpu help" ] && printf "Available CPUs:\\n  a64fx\\n  {listed}\\n"\n')
    qemu.chmod(0o755)
    assert processor("arm64", qemu) == expected
    assert processor("amd64", qemu) == ()


def test_the_first_emulator_that_the_kernel_takes_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, host = Emulator(name="own", rule=":own:"), Emulator(name="host", rule="")
    refused = Launched(outcome=None, step="binfmt_misc", error="No such device")
    monkeypatch.setattr(
        sandbox.SandboxSession, "refusal", lambda self: refused if self.emulator and self.emulator.rule else None
    )
    tree = Tree(layers=(tmp_path,))
    opened = open_session(tree, config(), arch=native_arch(), stage=tmp_path / "s", emulators=(own, host))
    assert opened.emulated == "host"
    with pytest.raises(RuntimeUnavailableError, match="binfmt_misc in user namespaces") as caught:
        open_session(tree, config(), arch="arm64", stage=tmp_path / "s", emulators=(own,))
    assert "qemu-user-static" in str(caught.value.hint)


def test_only_linux_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from buildctl.artifacts.store import Store
    from buildctl.runtimes.api import ImageRef
    from tests.support.images import image, tar

    layout, descriptor = image(tmp_path, tar())
    ref = ImageRef(layout=layout.root, descriptor=descriptor, name="a", arch="arm64", config=config())
    monkeypatch.setattr(sys, "platform", "darwin")
    with (
        pytest.raises(RuntimeUnavailableError, match="needs Linux"),
        sandbox.SandboxRuntime(Store(tmp_path)).start(ref),
    ):
        pytest.fail("started")
