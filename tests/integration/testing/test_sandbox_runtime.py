"""The sandbox on real images made of this machine's own Python: what runs inside sees, may do, and leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.runtimes.api import ImageRef, Session
from buildctl.runtimes.sandbox import emulation as sandbox_emulation
from buildctl.runtimes.sandbox import sandbox
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime, SandboxSession
from buildctl.runtimes.sandbox.shield import LIMITS, MASKED
from tests.support.enclosed import OPENS_FOR_WRITING
from tests.support.images import file, tar
from tests.support.programs import programs
from tests.support.pythons import base_python, put_image, python_config, python_members

# `write(1, "emulated\n", 9); exit(42)` for Linux on arm64, a whole static program
ARM64_PROGRAM = (
    b"\x7fELF\x02\x01\x01" + bytes(9)
    + bytes.fromhex("0200b70001000000") + (0x400078).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(12)
    + bytes.fromhex("400038000100000000000000")
    + bytes.fromhex("0100000005000000") + bytes(8) + (0x400000).to_bytes(8, "little") * 2
    + (0xA1).to_bytes(8, "little") * 2 + (0x1000).to_bytes(8, "little")
    + b"".join(
        word.to_bytes(4, "little")
        for word in (0xD2800020, 0x100000E1, 0xD2800122, 0xD2800808, 0xD4000001, 0xD2800540, 0xD2800BA8, 0xD4000001)
    )
    + b"emulated\n"
)  # fmt: skip


# `unshare(CLONE_NEWUSER); exit(-result)`: EPERM from the filter; EINVAL without it, since QEMU has threads
ARM64_UNSHARES = ARM64_PROGRAM[:0x78] + b"".join(
    word.to_bytes(4, "little") for word in (0xD2A20000, 0xD2800C28, 0xD4000001, 0xCB0003E0, 0xD2800BA8, 0xD4000001)
).ljust(41, b"\0")


@pytest.fixture(scope="module")
def base() -> bytes:
    return tar(*python_members(base_python()))


@pytest.fixture(scope="module")
def image(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> ImageRef:
    return put_image(tmp_path_factory.mktemp("image"), base)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def opened(image: ImageRef, store: Store) -> Iterator[SandboxSession]:
    try:
        with SandboxRuntime(store).start(image) as session:
            yield session
    except RuntimeUnavailableError as reason:
        pytest.skip(f"NOT RUN: {reason.message}")


@pytest.fixture
def session(image: ImageRef, store: Store) -> Iterator[SandboxSession]:
    yield from opened(image, store)


@pytest.fixture(params=["as we are", "without root"])
def either(
    request: pytest.FixtureRequest, image: ImageRef, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SandboxSession]:
    """The way of root, and the one with a single user id that everybody else has to take."""
    if request.param == "without root":
        monkeypatch.setattr(sandbox, "find_ids", lambda: None)
    yield from opened(image, store)


def python(session: Session, code: str, *, timeout: float = 30, user: str | None = None, read_only: bool = True) -> str:
    outcome = session.run(["python", "-c", code], timeout=timeout, user=user, read_only=read_only)
    assert outcome.returncode == 0, outcome
    return outcome.stdout.strip()


def test_a_command_sees_the_image_and_nothing_of_the_host(
    either: SandboxSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_SECRET", "of the host")
    code = "import os; print(os.getuid(), os.getgid(), os.getcwd(), sorted(os.environ.items()))"
    env = "[('FROM_IMAGE', 'yes'), ('HOME', '/home/user'), ('PATH', '/usr/bin:/bin'), ('USER', 'user')]"
    seen = python(either, code).replace("('LC_CTYPE', 'C.UTF-8'), ", "")  # which Python sets for itself
    assert seen == f"1000 1000 /workspace {env}"
    files = "import os; print([os.path.exists(path) for path in %r])"
    assert python(either, files % [str(tmp_path), __file__]) == "[False, False]"
    # not even root reads what process 1 got from us: it has more capabilities
    outcome = either.run(["python", "-c", "open('/proc/1/environ').read()"], timeout=30, user="0")
    assert "Permission denied: '/proc/1/environ'" in outcome.stderr


def test_process_1_takes_its_orders_from_no_readable_place(either: SandboxSession) -> None:
    assert "FROM_IMAGE" not in python(either, "print(open('/proc/1/cmdline').read())")


@pytest.mark.parametrize("user", ["0", "0:0", "1000", "12345:12345", "user"])
def test_the_user_can_be_any(either: SandboxSession, user: str) -> None:
    uid, gid = {"user": ("1000", "1000"), "12345:12345": ("12345", "12345"), "1000": ("1000", "1000")}.get(
        user, ("0", "0")
    )
    code = (
        "import os; print(os.getuid(), os.geteuid(), os.getgid(), open('/proc/self/status').read().split('CapEff:')[1])"
    )
    answer = python(either, code, user=user)
    assert answer.startswith(f"{uid} {uid} {gid}")
    assert (int(answer.split()[3], 16) == 0) == (uid != "0")


SCRIPT = """
from pathlib import Path
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.artifacts.store import Store
layout = Layout(Path({layout!r}))
d = layout.resolve({name!r})
ref = ImageRef(layout=layout.root, descriptor=d, name="x", arch={arch!r}, config=layout.config(d))
with SandboxRuntime(Store(Path({store!r}))).start(ref) as session:
"""


def script_for(image: ImageRef, store: Store) -> str:
    """A program that starts a session, without its end."""
    return SCRIPT.format(layout=str(image.layout), name=image.name, arch=image.arch, store=str(store.root))


@pytest.mark.parametrize("user", ["0", "1000"])
def test_the_kernel_s_files_are_read_only(either: SandboxSession, user: str) -> None:
    assert python(either, OPENS_FOR_WRITING, user=user) == "[]"


@pytest.mark.usefixtures("session")  # one can be made here
def test_an_image_needs_no_python_for_process_1(tmp_path: Path, store: Store) -> None:
    with SandboxRuntime(store).start(put_image(tmp_path, tar(*programs("true")))) as bare:
        assert bare.run(["true"], timeout=30).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: not root")
@pytest.mark.parametrize("network", [False, True])
def test_a_container_s_own_proc_and_sys_are_closed_with_all_in_them(
    image: ImageRef, store: Store, tmp_path: Path, network: bool
) -> None:
    """Where a container hides parts of /proc, no other can be mounted, and with the host's network no other /sys."""
    script = tmp_path / "script.py"
    script.write_text(
        script_for(image, store)
        + f"""
    print(session.run(["python", "-c", {OPENS_FOR_WRITING!r}], timeout=60, user="0", network={network}))
"""
    )
    hide = 'mount --make-rprivate / && mount -t tmpfs none /proc/irq && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert "returncode=0, stdout='[]\\n'" in done.stdout, done


REFUSED = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
column = ["x86_64", "aarch64"].index(platform.machine())
def said(result): return "allowed" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def call(numbers, *arguments): return said(libc.syscall(numbers[column], *arguments))
# without the filter everybody may do these, or gets another error
print("unshare", said(libc.unshare(0x10000000)), "keyctl", call((250, 219), 0, -3, 0), "setns", call((308, 268), -1, 0),
      "mount", said(libc.mount(None, None, None, 0, None)), "bpf", call((321, 280), 99, 0, 0),
      "clone3", call((435, 435), 0, 0), "ptrace", call((101, 117), 16, 1, 0, 0),
      "open_tree", call((428, 428), -1, 0, 0),
      "clone", call((56, 220), 0x10000011, 0, 0, 0, 0), "vsock", call((41, 198), 40, 1, 0))
lines = dict(line.split(":") for line in open("/proc/self/status"))
print(lines["Seccomp"].strip(), lines["NoNewPrivs"].strip())
"""


@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_reaches_beyond_the_sandbox_is_refused(either: SandboxSession, user: str) -> None:
    names = ("unshare", "keyctl", "setns", "mount", "bpf", "clone3", "ptrace", "open_tree", "clone", "vsock")
    answers = " ".join(f"{name} {'ENOSYS' if name == 'clone3' else 'EPERM'}" for name in names)
    assert python(either, REFUSED, user=user) == f"{answers}\n2 1"


def test_memory_files_and_processes_are_limited(either: SandboxSession) -> None:
    code = """
import resource, os
print([resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1] > 0 for name in ("DATA", "NOFILE", "NPROC")])
print([os.statvfs(path).f_blocks > 0 for path in ("/", "/tmp", "/dev", "/dev/shm")], os.statvfs("/dev").f_blocks)
"""
    limited = "[True, True, True]\n[True, True, True, True] 256"
    assert python(either, code, read_only=False) in (limited, limited.replace("256", "16"))


def test_the_kernel_ends_a_sandbox_first_where_memory_runs_out(either: SandboxSession) -> None:
    assert python(either, "print(open('/proc/self/oom_score_adj').read())") == "1000"


def test_more_processes_than_the_limit_are_refused(session: SandboxSession, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: the limit counts all processes of this user; root's sandbox has ids of its own")
    monkeypatch.setitem(LIMITS, "RLIMIT_NPROC", 50)
    code = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0: time.sleep(30); os._exit(0)
        made += 1
except BlockingIOError: print(made < 60)
"""
    assert python(session, code, user="12345:12345") == "True"


def test_what_tells_about_the_host_is_empty(either: SandboxSession) -> None:
    code = """
import os
for path in %r:
    if os.path.isdir(path): print(*os.listdir(path))
    elif os.path.exists(path): print(open(path).read())
"""
    assert python(either, code % (MASKED,), user="0") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: not root")
@pytest.mark.parametrize("user", ["0", "1000", "1000660000:1000660000"])
def test_root_inside_is_not_root_here_and_owners_are_the_image_s(
    base: bytes, tmp_path: Path, store: Store, user: str
) -> None:
    owned = [replace(file(f"usr/of-{uid}", mode=0o600), uid=uid, gid=uid) for uid in (0, 1000)]
    code = """
import os
rows = [[int(word) for word in line.split()] for line in open("/proc/self/uid_map")]
print(min(outside for _, outside, _ in rows) > 0, [os.stat(f"/usr/of-{n}").st_uid for n in (0, 1000)])
open("/home/user/new", "w")
print(os.getuid(), os.stat("/home/user/new").st_uid, *(os.access(f"/usr/of-{n}", os.R_OK) for n in (0, 1000)))
"""
    number = int(user.partition(":")[0])
    reads = {0: "True True", 1000: "False True"}.get(number, "False False")
    for session in opened(put_image(tmp_path, base, tar(*owned)), store):
        assert session.ownership
        assert python(session, code, user=user, read_only=False) == f"True [0, 1000]\n{number} {number} {reads}"


def test_the_root_is_read_only_and_tmp_is_not(either: SandboxSession) -> None:
    code = """
import errno
for path in ("/x", "/usr/x", "/workspace/x", "/home/user/x"):
    try: open(path, "w"); print("wrote", path)
    except OSError as error: print(errno.errorcode[error.errno])
for path in ("/tmp/x", "/dev/shm/x", "/dev/null"):
    open(path, "w").write("x")
"""
    assert set(python(either, code).split()) == {"EROFS"}


def test_what_is_written_is_thrown_away(either: SandboxSession) -> None:
    code = "import os; print(os.path.exists('/home/user/x')); open('/home/user/x', 'w').write('x')"
    assert [python(either, code, read_only=False) for _ in range(2)] == ["False", "False"]


def test_there_is_a_loopback_interface_and_no_way_out(either: SandboxSession) -> None:
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), 5)
print([name for _, name in socket.if_nameindex() if name == "lo"])
try: socket.create_connection(("192.0.2.1", 9), 5)
except OSError as error: print(error.strerror)
"""
    assert python(either, code).splitlines() == ["['lo']", "Network is unreachable"]


def test_the_host_network_is_there_when_asked_for(session: SandboxSession) -> None:
    argv = ["python", "-c", "import os; print(os.readlink('/proc/self/ns/net'))"]
    here = os.readlink("/proc/self/ns/net")  # noqa: PTH115
    assert session.run(argv, timeout=30, network=True).stdout.strip() == here
    assert session.run(argv, timeout=30).stdout.strip() != here


def test_standard_input_arrives_and_ends(session: SandboxSession) -> None:
    text = "ä line\n" * 40_000
    outcome = session.run(["python", "-c", "import sys; print(len(sys.stdin.read()))"], timeout=30, stdin=text)
    assert outcome.stdout.strip() == str(len(text))


def test_entrypoint_and_command(session: SandboxSession) -> None:
    assert session.run([], timeout=30, through_entrypoint=True).stdout == "by default\n"
    assert session.run(["-c", "print(1)"], timeout=30, through_entrypoint=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["nothing-there"], 127), (["/etc/passwd"], 126), (["python", "-c", "exit(7)"], 7),
     (["python", "-c", "import os; os.kill(os.getpid(), 11)"], -11)],
)  # fmt: skip
def test_how_a_command_ends_is_told(session: SandboxSession, argv: list[str], code: int) -> None:
    assert session.run(argv, timeout=30).returncode == code


def test_output_without_end_is_bounded(session: SandboxSession) -> None:
    outcome = session.run(["python", "-c", "print('x' * 60_000_000); print('the end')"], timeout=60)
    assert outcome.stdout.endswith("the end\n")
    assert len(outcome.stdout) < 5_000_000


def processes(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if marker.encode() in words and int(path.parent.name) != os.getpid():
            found.append(path.parent.name)
    return found


STUBBORN = """
import os, signal, sys, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(name, signal.SIG_IGN)
        if number: os.close(1); os.close(2)
        time.sleep(600)
print("started", flush=True)
time.sleep(600)
"""


def test_a_deadline_ends_everything(either: SandboxSession) -> None:
    marker = f"marker-{time.monotonic_ns()}"
    outcome = either.run(["python", "-c", STUBBORN, marker], timeout=2)
    assert (outcome.timed_out, outcome.returncode, outcome.stdout) == (True, None, "started\n")
    assert outcome.seconds < 6
    assert processes(marker) == []


def test_children_that_stay_behind_end_with_the_command(session: SandboxSession) -> None:
    marker = f"marker-{time.monotonic_ns()}"
    code = STUBBORN.replace('print("started", flush=True)\ntime.sleep(600)', "")
    outcome = session.run(["python", "-c", code, marker], timeout=30)
    assert outcome.returncode == 0
    assert processes(marker) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_buildctl(
    image: ImageRef, store: Store, session: SandboxSession, tmp_path: Path, number: signal.Signals
) -> None:
    marker = f"marker-{time.monotonic_ns()}"
    mounts = mounted(store.root)
    script = tmp_path / "script.py"
    script.write_text(f"""{script_for(image, store)}
    session.run(["python", "-c", {STUBBORN!r}, {marker!r}], timeout=300)
""")
    running = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while len(processes(marker)) < 4:
            assert time.monotonic() < until, "it did not start"
            time.sleep(0.1)
    finally:
        running.send_signal(number)
        running.wait(20)
    until = time.monotonic() + 5
    while processes(marker) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes(marker) == []
    assert mounted(store.root) == mounts
    assert list((store.root / "mnt").iterdir()) == []


def mounted(root: Path) -> list[str]:
    """What is mounted below `root`. Elsewhere, other tests may mount something at the same time."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{root}/" in line]


def test_many_layers_stack_in_order(base: bytes, tmp_path: Path, store: Store) -> None:
    layers = [tar(file("usr/number", b"%d" % n), file(f"usr/only-{n}", b"")) for n in range(90)]
    for session in opened(put_image(tmp_path, base, *layers), store):
        code = "import os; print(open('/usr/number').read(), sum(n.startswith('only-') for n in os.listdir('/usr')))"
        assert python(session, code) == "89 90"


def test_layers_are_unpacked_once_and_shared(base: bytes, image: ImageRef, tmp_path: Path, store: Store) -> None:
    for session in opened(image, store):
        first = {p: p.stat().st_ino for p in session.tree.layers}
    for session in opened(put_image(tmp_path, base, tar(file("usr/more"))), store):
        assert len(session.tree.layers) == 2
        again = session.tree.layers[-1]
        assert first[again] == again.stat().st_ino


def test_an_image_that_deletes_is_merged(base: bytes, tmp_path: Path, store: Store) -> None:
    image = put_image(tmp_path, base, tar(file("usr/gone"), file("usr/kept")), tar(file("usr/.wh.gone", b"")))
    for session in opened(image, store):
        assert session.tree.merged
        code = "import os; print(os.path.exists('/usr/gone'), os.path.exists('/usr/kept'))"
        assert python(session, code) == "False True"
        assert session.run(["python", "-c", "open('/usr/x', 'w')"], timeout=30).returncode == 1
        assert python(session, "open('/workspace/x', 'w'); open('/home/user/x', 'w'); print(1)", read_only=False) == "1"


def emulating(base: bytes, tmp_path: Path, store: Store) -> Iterator[SandboxSession]:
    """An image "for arm64" whose Python is this machine's, so that one image holds programs of both."""
    if native_arch() != "amd64":
        pytest.skip("NOT RUN: emulates arm64 on amd64")
    programs_of_arm = {"foreign": ARM64_PROGRAM, "unshares": ARM64_UNSHARES}
    layer = tar(*(file(f"usr/bin/{name}", code, mode=0o755) for name, code in programs_of_arm.items()))
    yield from opened(put_image(tmp_path, base, layer, config=python_config("arm64")), store)


@pytest.mark.parametrize("as_root", [True, False])
def test_a_foreign_program_and_foreign_children_run(
    base: bytes, tmp_path: Path, store: Store, as_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not as_root:
        monkeypatch.setattr(sandbox, "find_ids", lambda: None)
    before = Path("/proc/sys/fs/binfmt_misc").exists() and sorted(os.listdir("/proc/sys/fs/binfmt_misc"))  # noqa: PTH208
    for session in emulating(base, tmp_path, store):
        assert session.emulated is not None
        outcome = session.run(["foreign"], timeout=30)
        assert (outcome.returncode, outcome.stdout) == (42, "emulated\n")
        child = "import subprocess; print(subprocess.run(['foreign'], capture_output=True).stdout)"
        assert python(session, child) == "b'emulated\\n'"
        assert python(session, OPENS_FOR_WRITING, user="0") == "[]"  # its own binfmt_misc among them
        assert session.run(["unshares"], timeout=30).returncode == errno.EPERM  # the filter is for what QEMU calls
        assert not session.gpus
    after = Path("/proc/sys/fs/binfmt_misc").exists() and sorted(os.listdir("/proc/sys/fs/binfmt_misc"))  # noqa: PTH208
    assert before == after


def test_without_qemu_the_hint_says_what_to_install(
    image: ImageRef, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_emulation, "which", lambda name: None)
    monkeypatch.setattr(sandbox_emulation, "HOST_BINFMT", tmp_path)
    foreign = replace(image, arch="arm64" if native_arch() == "amd64" else "amd64")
    with pytest.raises(RuntimeUnavailableError, match="without qemu") as caught, SandboxRuntime(store).start(foreign):
        pytest.fail("started")
    assert caught.value.hint == "sudo apt-get install qemu-user-static"
